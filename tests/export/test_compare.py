"""The comparison finds files that answer differently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2_multitask.engine.results import to_result
from d2_multitask.export import compare_file
from d2_multitask.export.compare import Differences, _compare_objects
from d2_multitask.runtime import Predictor, Result
from export_support import blobs, exported, small_config, small_network

IMAGES = [blobs(48, 80)]


@pytest.mark.parametrize(
    ("parameter", "change", "field"),
    [
        ("heads.det.wh.1.bias", 0.01, "pixels"),
        ("heads.center.heatmap.1.bias", 0.01, "score"),
        ("heads.center.heatmap.1.bias", -2.0, "unmatched"),
    ],
)
def test_another_network_is_told_apart(parameter: str, change: float, field: str) -> None:
    model = small_network()
    with torch.no_grad():
        model.get_parameter(parameter).add_(change)
    differences = compare_file(exported(), small_config(), model, IMAGES)
    assert not differences.within_limits
    assert getattr(differences, field) > 1e-3, differences


def test_images_without_objects_are_said(caplog: pytest.LogCaptureFixture) -> None:
    model = small_network()
    model.heads["center"].score_threshold = 1.0
    cfg, images = small_config(), IMAGES
    differences = compare_file(exported(), cfg, small_network(), images)
    assert differences.objects and not caplog.records
    compare_file(exported(), cfg, model, images)
    assert "found no object in these images" in caplog.text


def test_another_map_is_told_apart() -> None:
    model = small_network()
    with torch.no_grad():
        model.heads["seg"].sem_seg[-1].bias[0] += 0.1
    differences = compare_file(exported(), small_config(), model, IMAGES)
    assert not differences.within_limits and differences.maps["sem_seg"] > 1e-3
    assert differences.pixels < 1e-3 and not differences.unmatched


def test_nan_is_not_within_limits() -> None:
    assert Differences(1, 1, 1e-4, 1e-5, {"sem_seg": 1e-4}).within_limits
    assert not Differences(1, 1, float("nan")).within_limits
    assert not Differences(1, 1, maps={"sem_seg": float("nan")}).within_limits
    assert not Differences(1, 1, unmatched=1).within_limits
    assert "1 objects found by one" in str(Differences(1, 1, unmatched=1))


def test_the_place_of_a_keypoint_that_is_not_there_means_nothing() -> None:
    fields = {"scores": torch.ones(1), "pred_classes": torch.zeros(1, dtype=torch.int64)}
    boxes, keypoints = torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[[3.0, 4.0, 0.9]] * 2])
    instances = Instances((9, 9), pred_boxes=Boxes(boxes), pred_keypoints=keypoints, **fields)
    moved = keypoints.clone()
    moved[0, 1, 0] = 8.0
    result = Result(
        (9, 9),
        Predictor(exported()).info,
        boxes=boxes.numpy(),
        scores=np.ones(1, np.float32),
        classes=np.zeros(1, np.int64),
        keypoints=moved.numpy(),
    )
    for confidence, pixels in ((0.9, 5.0), (1e-6, 0.0)):
        result.keypoints[0, 1, 2] = keypoints[0, 1, 2] = confidence
        found = Differences()
        expected = to_result({"instances": instances}, (9, 9), result.info)
        _compare_objects(result, expected, found)
        assert found.pixels == pixels
