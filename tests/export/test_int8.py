"""int8 files: convolutions are quantised, decoding and the convolutions that predict are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from d2_multitask.export import quantize_file
from d2_multitask.runtime import Predictor
from export_support import blobs, exported

IMAGES = [blobs(48, 80, seed) for seed in range(4)]


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_an_int8_file_answers_nearly_the_same(tmp_path: Path, suffix: str) -> None:
    if suffix == ".xml":
        pytest.importorskip("nncf")
    path = tmp_path / f"int8{suffix}"
    quantize_file(exported(), path, IMAGES)
    plain, int8 = Predictor(exported()), Predictor(path)
    assert int8.info == plain.info
    expected, found = plain(IMAGES[0]).maps["sem_seg"], int8(IMAGES[0]).maps["sem_seg"]
    error = np.abs(found - expected).mean() / expected.std()
    assert 1e-4 < error < 0.1


def test_only_the_network_is_quantised(tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    quantize_file(exported(), path, IMAGES)
    nodes = onnx.load(path).graph.node
    makers = {output: node for node in nodes for output in node.output}
    quantised = {
        node.name: makers[node.input[1]].op_type == "DequantizeLinear"
        for node in nodes
        if node.op_type == "Conv" and node.input[1] in makers
    }
    # The backbone's convolution and the hidden ones of both heatmaps and of the semantic map.
    assert sum(quantised.values()) == 4
    for node in nodes:
        if node.op_type in ("TopK", "MatMul", "GatherElements"):
            assert not any(
                makers[name].op_type == "DequantizeLinear" for name in node.input if name in makers
            )


def test_what_cannot_be_quantised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--calibrate: found no images"):
        quantize_file(exported(), tmp_path / "int8.onnx", [])
    with pytest.raises(ValueError, match=r"found '.pt2', expected .onnx or .xml"):
        quantize_file(exported(), tmp_path / "int8.pt2", IMAGES)
