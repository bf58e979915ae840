"""Pre-training, evaluation and pictures of a masked autoencoder, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from support import REPOSITORY
from tool_support import load_tool, run_tool

QUICK = (
    *("--config-file", "mae.yaml"),
    *("DATALOADER.NUM_WORKERS", "0"),
    *("MODEL.MAE.DEPTH", "2", "MODEL.MAE.DECODER_DEPTH", "1"),
    *("INPUT.RANDOM_RESIZED_CROP.SIZE", "(32, 32)"),
    *("INPUT.CENTER_CROP_TEST", "(32, 48)"),
    *("SOLVER.LOG_PERIOD", "1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of images, and a config that registers two parts of it."""
    root = tmp_path_factory.mktemp("mae")
    (root / "images").mkdir()
    generator = np.random.default_rng(0)
    for number in range(6):
        colors = generator.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        image = cv2.resize(colors, (64, 48), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / "images" / f"{number}.png"), image)
    (root / "mae.yaml").write_text(
        f"""
_BASE_: "{REPOSITORY}/configs/quick/mae_pretrain.yaml"
DATASETS:
  REGISTER:
    - {{NAME: "mine_train", IMAGE_ROOT: "{root}/images", IMAGE_RANGE: [0, 4]}}
    - {{NAME: "mine_test", IMAGE_ROOT: "{root}/images", IMAGE_RANGE: [4, 6]}}
  TRAIN: ("mine_train",)
  TEST: ("mine_test",)
"""
    )
    return root


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """The output folder of a training of two iterations."""
    output = folder / "output"
    options = ("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4", "VIS_PERIOD", "1")
    done = run_tool("train_net.py", folder, *QUICK, *options, "OUTPUT_DIR", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot be drawn" not in done.stdout
    assert "| reconstruction | relative_error " in done.stdout
    return output


def test_training_leaves_weights_and_results(trained):
    results = json.loads((trained / "results.json").read_text())
    assert set(results) == {"reconstruction"}
    assert results["reconstruction"]["num_images"] == 2
    assert results["reconstruction"]["error"] > 0
    lines = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    assert sum("total_loss" in line for line in lines) == 2


@pytest.mark.slow
def test_eval_only_gives_the_same_numbers(trained, folder):
    again = folder / "again"
    weights = ("MODEL.WEIGHTS", str(trained / "model_final.pth"), "OUTPUT_DIR", str(again))
    done = run_tool("train_net.py", folder, "--eval-only", *QUICK, *weights)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = ((f / "results.json").read_text() for f in (trained, again))
    assert json.loads(first) == json.loads(second)


def test_a_picture_needs_an_ending(capsys):
    tool = load_tool("visualize_reconstruction.py")
    with pytest.raises(SystemExit):
        tool.main(["--config-file", "x", "--output", "out/recon"])
    assert "--output: found out/recon, expected a .png or .jpg file" in capsys.readouterr().err


@pytest.mark.slow
def test_pictures(trained, folder):
    picture = folder / "pictures" / "sheet.png"
    arguments = ("--output", str(picture), *QUICK)
    weights = ("MODEL.WEIGHTS", str(trained / "model_final.pth"))
    done = run_tool("visualize_reconstruction.py", folder, *arguments, *weights)
    assert done.returncode == 0, done.stdout + done.stderr
    assert cv2.imread(str(picture)).shape[1] > 5 * 200
    done = run_tool(
        "visualize_reconstruction.py", folder, "--input", str(folder / "absent.png"), *arguments
    )
    assert done.returncode == 2
    assert "absent.png: cannot be read" in done.stderr and "Traceback" not in done.stderr
