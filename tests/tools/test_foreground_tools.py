"""Binary segmentation as a user runs it: train, evaluate, write masks, look at labels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2_multitask.data.labels.foreground import read_foreground
from support import REPOSITORY
from tool_support import run_tool

QUICK = (
    *("--config-file", "foreground.yaml"),
    *("DATALOADER.NUM_WORKERS", "0"),
    *("MODEL.MAE.DEPTH", "2", "MODEL.MAE.DECODER_DEPTH", "1"),
    *("INPUT.RANDOM_RESIZED_CROP.SIZE", "(32, 32)"),
    *("SOLVER.LOG_PERIOD", "1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Bright rectangles on dark ground, their masks, and a config that registers two parts."""
    root = tmp_path_factory.mktemp("foreground")
    for name in ("images", "masks"):
        (root / name).mkdir()
    generator = np.random.default_rng(0)
    for number in range(6):
        mask = np.zeros((48, 64), np.uint8)
        x, y = generator.integers(4, 20, 2)
        mask[y : y + 24, x : x + 30] = 255
        noise = generator.integers(0, 60, (48, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "images" / f"{number}.png"), noise + mask[..., None] // 2)
        cv2.imwrite(str(root / "masks" / f"{number}.png"), mask)
    (root / "foreground.yaml").write_text(
        f"""
_BASE_: "{REPOSITORY}/configs/quick/foreground_decoder_joint.yaml"
MODEL:
  WEIGHTS: ""
DATASETS:
  REGISTER:
    - &mine {{NAME: "fg_train", IMAGE_ROOT: "{root}/images", MASK_ROOT: "{root}/masks",
             IMAGE_RANGE: [0, 4]}}
    - {{<<: *mine, NAME: "fg_test", IMAGE_RANGE: [4, 6]}}
    - {{NAME: "fg_images", IMAGE_ROOT: "{root}/images"}}
  TRAIN: ("fg_train", "fg_images")
  TRAIN_REPEAT_FACTOR: [["fg_train", 2]]
  TEST: ("fg_test",)
"""
    )
    return root


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """The output folder of a training of two iterations, with reconstruction and pictures."""
    output = folder / "output"
    options = ("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4", "VIS_PERIOD", "1")
    done = run_tool("train_net.py", folder, *QUICK, *options, "OUTPUT_DIR", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot be drawn" not in done.stdout
    assert "| foreground     | IoU " in done.stdout
    return output


def test_training_leaves_weights_and_results(trained):
    results = json.loads((trained / "results.json").read_text())
    assert set(results) == {"foreground", "reconstruction"}
    assert results["foreground"]["num_images"] == results["reconstruction"]["num_images"] == 2
    line = json.loads((trained / "metrics.json").read_text().splitlines()[0])
    assert {"loss_foreground_bce", "loss_foreground_dice", "loss_reconstruction"} <= set(line)


@pytest.mark.slow
def test_eval_only_gives_the_same_numbers_and_tiles_others(trained, folder):
    weights = ("MODEL.WEIGHTS", str(trained / "model_final.pth"))
    found = {}
    for name, more in {
        "again": (),
        "tiles": (
            *("TEST.TASKS", "['foreground']", "INPUT.RESIZE_TEST", "shortest_edge"),
            *("INPUT.MIN_SIZE_TEST", "0", "TEST.TILES.ENABLED", "True"),
            *("TEST.TILES.SIZE", "(32, 32)"),
        ),
    }.items():
        output = ("OUTPUT_DIR", str(folder / name))
        done = run_tool("train_net.py", folder, "--eval-only", *QUICK, *weights, *more, *output)
        assert done.returncode == 0, done.stdout + done.stderr
        found[name] = json.loads((folder / name / "results.json").read_text())
    assert found["again"] == json.loads((trained / "results.json").read_text())
    assert set(found["tiles"]) == {"foreground"}
    assert found["tiles"]["foreground"]["num_images"] == 2
    assert found["tiles"] != found["again"]


def test_predict_writes_masks_that_can_be_trained_with(trained, folder, tmp_path):
    out = tmp_path / "out"
    done = run_tool(
        "predict.py",
        folder,
        *("--config-file", str(trained / "config.yaml"), "--input", str(folder / "images")),
        *("--output", str(out), "--max-images", "2", "--contact-sheet"),
        *("TEST.TASKS", "['foreground']", "INPUT.RESIZE_TEST", "shortest_edge"),
        *("INPUT.MIN_SIZE_TEST", "0", "TEST.TILES.ENABLED", "True"),
        *("TEST.TILES.SIZE", "(32, 32)"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Also: {out / 'masks'}" in done.stdout
    names = {"0.png", "1.png", "masks", "contact_sheet.png", "finished.jsonl"}
    assert {p.name for p in out.iterdir()} == names
    for name in ("0.png", "1.png"):
        assert read_foreground(str(out / "masks" / name), (48, 64)).max() <= 1
        # The image and its foreground side by side.
        assert cv2.imread(str(out / name)).shape[1] > 1280


def test_grey_masks_and_mistakes(trained, folder, tmp_path):
    common = ("--config-file", str(trained / "config.yaml"), "--output", str(tmp_path / "out"))
    one = ("--input", str(folder / "images/0.png"))
    done = run_tool("predict.py", folder, *common, *one, "--mask-threshold", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    mask = cv2.imread(str(tmp_path / "out/masks/0.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (48, 64) and 0 < mask.min() <= mask.max() < 255
    done = run_tool("predict.py", folder, *common, *one, "--mask-threshold", "2")
    assert done.returncode == 2 and "--mask-threshold: found 2, expected 0 to 1" in done.stderr


@pytest.mark.parametrize("source", ["annotation", "mapper", "targets"])
def test_labels_are_drawn(source, folder, tmp_path):
    done = run_tool(
        "visualize_data.py",
        folder,
        *("--config-file", "foreground.yaml", "--source", source, "--num-images", "2"),
        *("--output", str(tmp_path), "MODEL.MAE.DEPTH", "1"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    picture = cv2.imread(str(tmp_path / f"{source}_001.png"))
    assert picture.shape[1] > 1.5 * picture.shape[0]  # the label beside the image
