"""Segments of a data set: means, recall, and answers that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from d2_multitask.evaluation.segments import SegmentsEvaluator

OBJECTS = np.zeros((20, 20), int)
OBJECTS[5:15, 5:15] = 1


def output(**changes):
    segments = OBJECTS.copy()
    return {"segments": segments, "scores": [0.5, 0.9], "grid_hw": (4, 4), **changes}


def test_means_over_images():
    evaluator = SegmentsEvaluator()
    exact = output(foreground=OBJECTS == 1)
    evaluator.process([{"image_id": "a", "objects": OBJECTS}], [exact])
    evaluator.process([{"image_id": "b", "objects": OBJECTS}], [output(foreground=None)])
    scores = evaluator.evaluate()["segments"]
    assert scores["IoU"] == scores["CorLoc"] == 50
    assert scores["IoU-best-segment"] == scores["ARI"] == 100
    assert scores["num_images"] == 2 and scores["num_no_object"] == 1
    assert scores["AR@1"] == 100  # the better of the segments is the object
    assert evaluator.per_image["a"].iou == 1 and evaluator.per_image["b"].iou == 0


def test_the_foreground_comes_before_segments():
    evaluator = SegmentsEvaluator()
    wrong = np.zeros(OBJECTS.shape, bool)
    wrong[:3] = True
    evaluator.process([{"image_id": 1, "objects": OBJECTS}], [output(foreground=wrong)])
    scores = evaluator.evaluate()["segments"]
    assert scores["AR@1"] == 0 and scores["AR@10"] == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"segments": OBJECTS[:5]},
            r"Image 1: segments: found shape \(5, 20\), expected \(20, 20\)",
        ),
        ({"foreground": OBJECTS[:, :5] == 1}, "Image 1: foreground: found shape"),
        ({"scores": [1.0]}, r"Image 1: segments: found numbers 0..1, expected 0..0"),
        ({"segments": OBJECTS - 1}, "Image 1: segments: found numbers -1..0"),
    ],
)
def test_answers_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        SegmentsEvaluator().process([{"image_id": 1, "objects": OBJECTS}], [output(**changes)])
