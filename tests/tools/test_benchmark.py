"""tools/benchmark.py as a user runs it, with tiny settings."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tool_support import load_tool, run_tool

QUICK = "quick/mcn_seg_det_pose.yaml"
SMALL = ("--size", "64", "--people", "2", "--runs", "1", "--warmup", "0", "--threads", "1")
NARROW = ("MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_tool("benchmark.py", folder, *words, *SMALL, "--output", folder / "out")


def test_cost_with_a_config_that_cannot_be_built(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        *("cost", "--no-detectron2", "--batch", "2", "--batch-runs", "1"),
        *("--config-file", QUICK, "absent.yaml"),
        *NARROW,
    )
    assert done.returncode == 1, done.stderr
    assert "failed: ValueError: There is no config file 'absent.yaml'" in done.stdout
    rows = json.loads((tmp_path / "out" / "cost.json").read_text())["rows"]
    assert set(rows["absent"]) == {"error"}
    assert rows["quick/mcn_seg_det_pose"]["latency"] > 0
    assert rows["quick/mcn_seg_det_pose: 3 single networks"]["throughput"] > 0


def test_ratios(tmp_path: Path) -> None:
    done = run(tmp_path, "ratios", "--only", "fast", "evaluation", "--images", "2")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(content["ratios"]) == {
        "fast network / Detectron2's bare R18-FPN (256)",
        "pycocotools / our COCO evaluation",
    }
    for entry in content["ratios"].values():
        assert entry["value"] > 0 and entry["target"] > 0
    assert "64x64, 1 threads" in content["setting"]


def test_relation(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        *("relation", "--config-file", "quick/mae_pretrain.yaml", "--passes", "80"),
        *("MODEL.MAE.DEPTH", "1"),
    )
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "out" / "relation.json").read_text())
    assert numbers["set by set / in batches"] > 0
    assert f"{numbers['sets a batch']:.4g}" in done.stdout
    # 64 patches of 8x8 pixels: 38 passes are needed
    done = run(tmp_path, "relation", "--config-file", "quick/mae_pretrain.yaml", "--passes", "9")
    assert done.returncode == 2
    assert "found 9 passes" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def tool():
    return load_tool("benchmark.py")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(("step", "--workers", "0"), "data, targets and losses, %", id="step"),
        pytest.param(("loader", "--workers", "0"), "0 workers, images/s", id="loader"),
        pytest.param(("targets", "--batch", "2"), "ratio loop / ours", id="targets"),
        pytest.param(("decoding",), "decoding in % of forward", id="decoding"),
        pytest.param(
            ("deformable",), "64 channels at stride 4, ratio deformable / plain", id="deformable"
        ),
        pytest.param(("memory", "--iterations", "2"), "peak memory, GB", id="memory"),
    ],
)
def test_the_other_commands(tool, tmp_path, capsys, monkeypatch, words, expected):
    looks = []
    monkeypatch.setitem(tool.CLOCKS, "cpu", lambda: looks.append(1) or time.process_time())
    more = [*SMALL, "--images", "2", "--output", str(tmp_path), "--clock", "cpu"]
    assert tool.main([*words, *more, "--config-file", QUICK, *NARROW]) == 0
    # The loader's workers are other processes, and memory is not a time.
    assert bool(looks) == (words[0] not in ("loader", "memory"))
    assert expected in capsys.readouterr().out
    content = json.loads((tmp_path / f"{words[0]}.json").read_text())
    assert any(name.startswith(expected) for name in content)


def test_scaling(tool, tmp_path, capsys):
    more = [*SMALL, "--clock", "cpu", "--output", str(tmp_path), *NARROW]
    assert tool.main(["scaling", "--config-file", QUICK, "--step-seconds", "0.5", *more]) == 0
    assert "0.500 s (given)" in capsys.readouterr().out
    content = json.loads((tmp_path / "scaling.json").read_text())["computed, not run"]
    assert [row["GPUs"] for row in content[QUICK.removesuffix(".yaml")]["rows"]] == [
        1,
        8,
        8,
        *[64] * 3,
    ]


TINY = (
    *("--config-file", "quick/mae_pretrain.yaml", "--batch", "1"),
    *("MODEL.MAE.DEPTH", "2", "MODEL.MAE.IMAGE_SIZE", "(64, 64)"),
)


@pytest.mark.parametrize(
    ("what", "expected"),
    [("mae", "encoder: a quarter / all"), ("vit", "| relative positions, forward and backward")],
)
def test_transformers(tool, tmp_path, capsys, what, expected):
    assert tool.main([what, *SMALL, "--clock", "cpu", "--output", str(tmp_path), *TINY]) == 0
    assert expected in capsys.readouterr().out
    assert "cpu clock" in json.loads((tmp_path / f"{what}.json").read_text())["setting"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(("targets", "--config-file", "absent.yaml"), "'absent.yaml'", id="config"),
        pytest.param(("targets", "MODEL.TASK", "[]"), "MODEL.TASKS", id="key"),
        pytest.param(("scaling", "--step-seconds", "1", "2"), "found 2 numbers", id="steps"),
    ],
)
def test_what_a_mistake_gets(tool, tmp_path, capsys, words, message):
    assert tool.main([*words, *SMALL, "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_an_option_that_does_not_exist(tool, capsys):
    with pytest.raises(SystemExit, match="2"):
        tool.main(["targets", "--sise", "3"])
    assert "unrecognized arguments: --sise" in capsys.readouterr().err
