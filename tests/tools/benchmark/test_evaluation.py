"""The timing of COCO's evaluation on a few images; how long it takes is not asserted."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.data import DatasetCatalog

from benchmark.evaluation import (
    _largest_difference,
    measure_coco_evaluation,
    random_labels,
    random_predictions,
)
from support import needs_hotcoco

KINDS = ("seconds", "cpu_seconds")


@needs_hotcoco
@pytest.mark.filterwarnings("ignore")
def test_all_evaluators_agree_and_are_timed() -> None:
    backends = ("detectron2", "pycocotools", "hotcoco")
    before = set(DatasetCatalog)
    found = measure_coco_evaluation(8, 3, 6, num_keypoints=5, backends=backends, runs=2)
    for backend in backends:
        assert all(found[f"{backend}_{kind}"] > 0 for kind in KINDS)
    assert found["speedup"] == found["detectron2_seconds"] / found["hotcoco_seconds"]
    assert found["largest_difference"] < 1e-4
    assert set(DatasetCatalog) == before


def test_random_people_are_sound() -> None:
    labels = random_labels(4, 3, num_keypoints=6)
    assert len(labels["annotations"]) == 12
    for annotation in labels["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert 0 <= x <= x + w <= 640.01 and 0 <= y <= y + h <= 480.01 and h >= 29
        assert annotation["num_keypoints"] == sum(v > 0 for v in annotation["keypoints"][2::3])


def test_random_predictions_are_partly_right() -> None:
    labels = random_labels(4, 3, num_keypoints=6)
    outputs = random_predictions(labels, 10)
    assert [len(instances) for instances in outputs] == [10] * 4
    assert outputs[0].pred_keypoints.shape == (10, 6, 3)
    boxes = torch.cat([instances.pred_boxes.tensor for instances in outputs])
    assert boxes.isfinite().all() and (boxes[:, 2:] > boxes[:, :2]).all()


def test_largest_difference() -> None:
    first = {"bbox": {"AP": 50.0, "APs": math.nan}}
    assert _largest_difference([first, {"bbox": {"AP": 51.5, "APs": math.nan}}]) == 1.5
    assert _largest_difference([first, {"bbox": {"AP": 50.0, "APs": 3.0}}]) == math.inf
    assert _largest_difference([first, {}]) == math.inf
