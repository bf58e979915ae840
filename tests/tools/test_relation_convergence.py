"""tools/relation_convergence.py as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from support import REPOSITORY

from d2_multitask.config import load_config

TOOL = REPOSITORY / "tools" / "relation_convergence.py"
SMALL = (
    *("MODEL.MAE.EMBED_DIM", "24", "MODEL.MAE.DEPTH", "1", "MODEL.MAE.NUM_HEADS", "2"),
    *("MODEL.MAE.DECODER_EMBED_DIM", "16", "MODEL.MAE.DECODER_DEPTH", "1"),
    *("MODEL.MAE.IMAGE_SIZE", "[32, 32]", "MODEL.MAE.MASK_RATIO", "[0.5, 0.9]"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("convergence")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    (root / "images").mkdir()
    cv2.imwrite(str(root / "images" / "one.png"), pixels)
    torch.manual_seed(0)
    model = build_model(load_config("quick/mae_pretrain.yaml", list(SMALL)))
    torch.save({"model": model.state_dict()}, root / "mae.pth")
    return root


def run(folder, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *words, "--config-file", "quick/mae_pretrain.yaml"]
    command += ["--output", str(folder / "out"), "--seeds", "1", "--reference-passes", "80"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command += [*SMALL, "MODEL.WEIGHTS", str(folder / "mae.pth")]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


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
