"""The tool as a user runs it: in a process of its own, on a dataset on disk."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from engine_support import write_people
from support import REPOSITORY
from synthetic.people import write_synthetic_people
from tool_support import run_tool

QUICK = (
    *("--config-file", "quick/mcn_seg_det_pose.yaml"),
    *("DATALOADER.NUM_WORKERS", "0"),
    *("SOLVER.IMS_PER_BATCH", "2"),
    *("INPUT.SCALE_CROP.SIZE", "(64, 64)"),
    *("INPUT.SCALE_CROP.BORDER", "8"),
    *("SOLVER.LOG_PERIOD", "1"),
)


def train_net(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_tool("train_net.py", folder, *arguments, datasets=folder)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    """A folder of datasets with a very small one under the synthetic people's name."""
    root = tmp_path_factory.mktemp("datasets")
    for split, seed in (("train", 0), ("val", 1)):
        write_synthetic_people(root, split, num_images=3, seed=seed)
    return root


@pytest.fixture(scope="module")
def trained(datasets) -> tuple[Path, str]:
    """The folder of a training of three iterations, and what it printed."""
    output = datasets / "output"
    done = train_net(datasets, *QUICK, "SOLVER.MAX_ITER", "3", "OUTPUT_DIR", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_training_leaves_results_weights_and_logs(trained):
    output, text = trained
    assert set(results_of(output)) == {"bbox", "keypoints", "sem_seg"}
    assert {"AP", "AP50"} <= set(results_of(output)["bbox"])
    assert "IoU-person" in results_of(output)["sem_seg"]
    for name in ("model_final.pth", "metrics.json", "config.yaml", "log.txt"):
        assert (output / name).is_file(), name
    assert "eta: " in text
    assert "loss_det_giou" in text
    assert "| sem_seg   | IoU-person " in text
    assert "No problem was found in the data" in text


def test_eval_only_gives_the_same_numbers(trained, datasets):
    output, _ = trained
    again = datasets / "again"
    done = train_net(
        datasets,
        "--eval-only",
        *QUICK,
        *("MODEL.WEIGHTS", str(output / "model_final.pth"), "OUTPUT_DIR", str(again)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert results_of(again) == results_of(output)


@pytest.mark.slow
def test_resume_goes_on(trained, datasets, tmp_path):
    output, _ = trained
    copied = tmp_path / "copied"
    shutil.copytree(output, copied)
    done = train_net(
        datasets, "--resume", *QUICK, "SOLVER.MAX_ITER", "5", "OUTPUT_DIR", str(copied)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Starting training from iteration 3" in done.stdout


@pytest.mark.slow
def test_own_data_set_from_yaml_alone(tmp_path):
    json_file = write_people(tmp_path / "people")
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"""
_BASE_: "{REPOSITORY}/configs/quick/mcn_seg.yaml"
MODEL: {{DEVICE: "cuda"}}
DATASETS:
  REGISTER:
    - {{NAME: "mine", JSON: "{json_file}", IMAGE_ROOT: "{tmp_path}/people"}}
  TRAIN: ("mine",)
  TEST: ("mine",)
"""
    )
    done = train_net(
        tmp_path,
        *("--eval-only", "--config-file", str(config)),
        *("DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "out")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(results_of(tmp_path / "out")) == {"sem_seg"}
    assert "RANDOM weights" in done.stdout


@pytest.mark.slow
def test_mistake_is_one_message(datasets):
    done = train_net(datasets, *QUICK, "SOLVER.MAX_ITERS", "3")
    assert done.returncode == 1
    assert "Error: command line: found the unknown config key SOLVER.MAX_ITERS" in done.stderr
    assert "did you mean SOLVER.MAX_ITER" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_more_gpus_than_there_are(datasets):
    done = train_net(datasets, "--num-gpus", "1000", *QUICK)
    assert done.returncode == 2
    assert "--num-gpus 1000: PyTorch finds" in done.stderr


def test_gradients_of_its_tasks(trained, datasets, tmp_path):
    """tools/loss_gradients.py on the same network."""
    output, _ = trained
    words = [*QUICK, "--batches", "1", "--output", tmp_path / "gradients"]
    done = run_tool("loss_gradients.py", datasets, *words, "--run", output, datasets=datasets)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "gradients" / "gradients.md").read_text() in done.stdout
    assert (tmp_path / "gradients" / "gradients.png").stat().st_size > 1000
    (found,) = json.loads((tmp_path / "gradients" / "gradients.json").read_text())["measurements"]
    assert found["iteration"] == 2 and found["tasks"]["norms"].keys() >= {"seg", "det"}

    done = run_tool("loss_gradients.py", datasets, *words, "--run", tmp_path, datasets=datasets)
    assert done.returncode == 2 and "found no model_*.pth" in done.stderr
    assert "Traceback" not in done.stderr
