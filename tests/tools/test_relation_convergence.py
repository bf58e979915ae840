"""tools/relation_convergence.py as a user runs it."""

from __future__ import annotations

import subprocess

import cv2
import numpy as np
import pytest

from tool_support import SMALL_MAE, run_tool, save_small_mae

SMALL = (*SMALL_MAE, "MODEL.MAE.IMAGE_SIZE", "[32, 32]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("convergence")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    (root / "images").mkdir()
    cv2.imwrite(str(root / "images" / "one.png"), pixels)
    save_small_mae(root / "mae.pth", "quick/mae_pretrain.yaml", SMALL)
    return root


def run(folder, *words: str) -> subprocess.CompletedProcess[str]:
    return run_tool(
        "relation_convergence.py",
        folder,
        *(*words, "--config-file", "quick/mae_pretrain.yaml", "--output", folder / "out"),
        *("--seeds", 1, "--reference-passes", 80, *SMALL, "MODEL.WEIGHTS", folder / "mae.pth"),
    )


def test_a_table_and_a_curve(folder) -> None:
    done = run(folder, "--input", str(folder / "images"), "--passes", "50", "60")
    assert done.returncode == 0, done.stderr
    table = (folder / "out" / "convergence.md").read_text()
    assert table in done.stdout and "| `leave_one_out` |" in table
    assert (folder / "out" / "convergence.png").stat().st_size > 1000


def test_too_few_passes_and_no_image(folder) -> None:
    done = run(folder, "--input", str(folder / "images"), "--passes", "5")
    assert done.returncode == 2 and "found 5, expected at least" in done.stderr
    done = run(folder, "--input", str(folder / "absent"))
    assert done.returncode == 2 and "absent" in done.stderr and "Traceback" not in done.stderr
