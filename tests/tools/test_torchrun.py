"""Two processes as torchrun starts them: one network, one evaluation, one result of a folder."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.test_resume import assert_same
from synthetic.people import write_synthetic_people
from synthetic.textures import write_synthetic_textures
from tool_support import (
    SMALL_MAE,
    load_command,
    run_python,
    run_tool,
    save_small_mae,
    small_network,
)

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TRAIN = (
    *("--config-file", "quick/mcn_seg_det_pose.yaml", "DATALOADER.NUM_WORKERS", "0"),
    *("SOLVER.IMS_PER_BATCH", "2", "INPUT.SCALE_CROP.SIZE", "(64, 64)"),
    *("INPUT.SCALE_CROP.BORDER", "8", "SOLVER.LOG_PERIOD", "1", "SEED", "1"),
    *("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.EMA.ENABLED", "True"),
)


def torchrun(folder: Path, tool: str, *words: object) -> subprocess.CompletedProcess[str]:
    return run_python(folder, *TWO, f"tools/{tool}", *words, datasets=folder)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    for split, number in (("train", 5), ("val", 3)):
        write_synthetic_people(root, split, num_images=number, seed=number)
    return root


@pytest.fixture(scope="module")
def trained(datasets) -> Path:
    done = torchrun(datasets, "train_net.py", *TRAIN, "OUTPUT_DIR", datasets / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    return datasets / "out"


def test_one_training_of_two_processes(trained):
    assert sorted(path.name for path in trained.glob("*.pth")) == [
        "model_0000001.pth",
        "model_0000003.pth",
        "model_final.pth",
    ]
    lines = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    iterations = [line["iteration"] for line in lines if "total_loss" in line]
    assert iterations == [0, 1, 2, 3]
    assert len(list(trained.glob("events.*"))) == 1
    assert "Starting training from iteration 0" in (trained / "log.txt").read_text()
    assert not (trained / "lock.json").exists()


def test_its_evaluation_is_that_of_one_process(trained, datasets):
    weights = ("MODEL.WEIGHTS", trained / "model_final.pth", "OUTPUT_DIR", datasets / "alone")
    done = run_tool("train_net.py", datasets, "--eval-only", *TRAIN, *weights, datasets=datasets)
    assert done.returncode == 0, done.stdout + done.stderr
    found, alone = (
        json.loads((folder / "results.json").read_text())
        for folder in (trained, datasets / "alone")
    )
    assert set(found) == {"bbox", "keypoints", "sem_seg"}
    assert found == alone


@pytest.mark.parametrize("processes", [2, 1])
def test_resume(trained, datasets, processes, tmp_path):
    """Two processes end with the bits of the uninterrupted training; one goes on as well."""
    for name in ("model_0000001.pth", "metrics.json"):
        shutil.copy(trained / name, tmp_path / name)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    words = ("--resume", *TRAIN, "DATASETS.TEST", "()", "OUTPUT_DIR", tmp_path)
    if processes == 2:
        done = torchrun(datasets, "train_net.py", *words)
    else:
        done = run_tool("train_net.py", datasets, *words, datasets=datasets)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Starting training from iteration 2" in done.stdout
    found, expected = (
        torch.load(folder / "model_final.pth", weights_only=True) for folder in (tmp_path, trained)
    )
    assert found["iteration"] == expected["iteration"] == 3
    if processes == 2:
        assert found.pop("d2_multitask") != expected.pop("d2_multitask")  # the config: no TEST
        assert_same(found, expected)


def test_predictions_of_a_folder_are_shared(tmp_path):
    weights = small_network(tmp_path)
    folder, out = tmp_path / "photos", tmp_path / "two"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    (folder / "broken.png").write_bytes(b"nothing")

    def words(name: str) -> list[str]:
        more = ("--json", tmp_path / f"{name}.json", "--output", tmp_path / name)
        given = ("--model", weights, "--input", folder, "--contact-sheet", *more)
        return [*map(str, given), "MODEL.DEVICE", "cpu"]

    def written(name: str) -> list[str]:
        suffixes = ("", "_images", "_sem_seg")
        return [(tmp_path / f"{name}{suffix}.json").read_text() for suffix in suffixes]

    done = torchrun(tmp_path, "predict.py", *words("two"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 images" in done.stdout and done.stdout.count("Overlays:") == 1
    assert "1 inputs could not be read" in done.stdout and "broken.png" in done.stdout
    tool = load_command("predict")
    assert tool.main(words("one")) == 0
    assert written("two") == written("one")
    assert (out / "contact_sheet.png").is_file()

    times = (out / "0.png").stat().st_mtime_ns
    (out / "2.png").unlink()
    assert tool.main(words("two")) == 0
    assert written("two") == written("one")
    assert (out / "0.png").stat().st_mtime_ns == times  # not done again
    assert (out / "2.png").is_file()


def test_segments_of_a_folder_are_shared(tmp_path):
    write_synthetic_textures(tmp_path, "other_palette", "test", 3)
    small = (*SMALL_MAE, "MODEL.MAE.PATCH_SIZE", "16")
    save_small_mae(tmp_path / "mae.pth", "quick/mae_textures.yaml", small)
    words = (
        *("--config-file", "quick/mae_textures.yaml", "--passes", "40", "--sheet"),
        *("--input", tmp_path / "synthetic_textures" / "other_palette" / "test" / "images"),
        *("--output", tmp_path / "out", *small, "MODEL.WEIGHTS", tmp_path / "mae.pth"),
    )
    done = torchrun(tmp_path, "segment_unlabelled.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("3 images: ") == 1 and "3 segmented" in done.stdout
    content = json.loads((tmp_path / "out" / "segments.json").read_text())
    assert len(content["images"]) == 3
    assert (tmp_path / "out" / "strips.png").is_file()
    (tmp_path / "out" / "records" / "000001.json").unlink()  # what a killed run loses
    masks = tmp_path / "synthetic_textures" / "other_palette" / "test" / "masks"
    done = torchrun(tmp_path, "segment_unlabelled.py", "--masks", masks, *words)
    assert "3 images: 2 done before, 1 segmented" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("IoU-best-segment") == 1
