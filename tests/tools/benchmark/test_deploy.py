"""Exported files beside others: rows, ratios, and files that a runtime cannot read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tool_support import load_tool, run_tool

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

NAME = "quick/mcn_fast_seg_det_pose"


def write_peer(path: Path) -> Path:
    """A file with one input, (1, 3, 8, 8) floats."""
    shape = [1, 3, 8, 8]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in ("x", "y")
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "peer", ends[:1], ends[1:]
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


def test_rows_and_ratios(tmp_path: Path) -> None:
    peer = write_peer(tmp_path / "peer.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    done = run_tool(
        "benchmark.py",
        tmp_path,
        *("deploy", "--config-file", f"{NAME}.yaml", "--peer", f"small={peer},{peer}"),
        *(f"broken={broken}", "--size", "64", "--people", "2", "--runs", "2", "--warmup", "0"),
        *("--threads", "1", "--output", tmp_path / "out"),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"),
    )
    assert done.returncode == 1, done.stderr  # because of the broken file
    content = json.loads((tmp_path / "out" / "deploy.json").read_text())
    runtimes = ("ONNX Runtime", "OpenVINO")
    assert set(content["errors"]) == {f"broken, {runtime}" for runtime in runtimes}
    for runtime in runtimes:
        ours, eager, small = f"{NAME}, {runtime}", f"{NAME}, eager", f"small, {runtime}"
        assert content["ms"][ours] > 0 and content["ms"][small] > 0
        found = {(x["above"], x["below"]): x for x in content["ratios"]}
        assert found[ours, eager]["target"] == 0.75
        assert found[ours, small]["value"] > 0


def test_a_peer_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["deploy", "--peer", "small=absent.onnx", "--output", str(tmp_path)]
    assert load_tool("benchmark.py").main(words) == 2
    expected = "--peer small=absent.onnx: expected NAME=FILE[,FILE], found no absent.onnx"
    assert expected in capsys.readouterr().err
