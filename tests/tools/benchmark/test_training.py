"""Parts of a training step, speed of the loader, time of the evaluation: on tiny data."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import CfgNode

from benchmark import evaluation, training
from benchmark.evaluation import measure_evaluation
from benchmark.networks import Setting
from benchmark.training import (
    measure_loader,
    measure_steps,
    share_around_network,
    training_cfg,
)
from engine_support import registered_people, tiny_cfg


@pytest.fixture
def cfg(tmp_path: Path):
    with registered_people(tmp_path / "data") as name:
        yield tiny_cfg(name, tmp_path)


def test_a_step_is_split(cfg: CfgNode) -> None:
    parts = measure_steps(cfg, steps=2, warmup=1)
    names = {"data", "forward", "targets", "losses", "backward", "optimizer", "step"}
    assert set(parts) == names
    assert all(seconds > 0 for seconds in parts.values())
    assert 0 < share_around_network(parts) < 1


def test_the_share_counts_data_targets_and_losses() -> None:
    parts = {"data": 1.0, "targets": 2.0, "losses": 3.0, "forward": 4.0, "step": 24.0}
    assert share_around_network(parts) == 0.25


def test_images_a_second_by_workers(cfg: CfgNode) -> None:
    speeds = measure_loader(cfg, [0, 1], num_batches=2)
    assert list(speeds) == [0, 1] and all(speed > 0 for speed in speeds.values())
    assert cfg.DATALOADER.NUM_WORKERS == 0  # as it was


def test_the_data_of_a_training(tmp_path: Path) -> None:
    for folder in ("one", "two"):  # a second call registers anew
        cfg = training_cfg(
            "quick/mcn_seg_det_pose.yaml", [], Setting(size=64), tmp_path / folder, 3, 0
        )
    assert cfg.DATASETS.TRAIN == (training.DATASET,)
    assert cfg.INPUT.SCALE_CROP.SIZE == (64, 64)
    assert measure_loader(cfg, [0], num_batches=1)[0] > 0


def test_evaluation_gives_pycocotools_numbers() -> None:
    measured = measure_evaluation(num_images=12)
    assert measured["largest difference"] < 1e-4
    assert measured["ratio"] == pytest.approx(measured["pycocotools"] / measured["ours"])
    assert evaluation.METRICS == ("bbox", "keypoints")
