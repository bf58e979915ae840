from __future__ import annotations

import math

import numpy as np
import pytest

from d2_multitask.evaluation.dense.confusion import (
    count_confusion,
    intersection_over_union,
    mean_iou_with_background,
    segmentation_metrics,
)

# Two rows of five pixels; class 2 is predicted once and never labelled.
LABELS = np.array([[0, 0, 0, 1, 1], [1, 1, 255, 255, 0]], dtype=np.uint8)
PREDICTED = np.array([[0, 0, 1, 1, 1], [1, 2, 0, 1, 0]])


def test_counts_by_hand():
    found = count_confusion(LABELS, PREDICTED, 3)
    np.testing.assert_array_equal(found, [[3, 1, 0], [0, 3, 1], [0, 0, 0], [1, 1, 0]])


def test_metrics_by_hand():
    """Class 0: 3 of 4 labelled + 0 more; class 1: 3 of 4 + 1 more; class 2 is labelled nowhere."""
    found = segmentation_metrics(count_confusion(LABELS, PREDICTED, 3), ["a", "b", "c"])
    assert found["IoU-a"] == pytest.approx(100 * 3 / 4)
    assert found["IoU-b"] == pytest.approx(100 * 3 / 5)
    assert math.isnan(found["IoU-c"])
    assert found["mIoU"] == pytest.approx(100 * (0.75 + 0.6) / 2)
    assert found["mACC"] == pytest.approx(75)
    assert found["pACC"] == pytest.approx(100 * 6 / 8)
    assert found["fwIoU"] == pytest.approx(100 * (0.75 + 0.6) / 2)


def test_with_background_by_hand():
    """The two unlabelled pixels are one more class, found nowhere, and errors of classes 0 and 1:
    class 0: 3 / (4 + 1), class 1: 3 / (5 + 1), background 0.
    """
    found = mean_iou_with_background(count_confusion(LABELS, PREDICTED, 3))
    assert found == pytest.approx((3 / 5 + 3 / 6 + 0) / 3)


def test_without_unlabelled_pixels_background_is_no_class():
    labels = np.array([[0, 1]])
    assert mean_iou_with_background(count_confusion(labels, labels, 2)) == 1


def test_nothing_labelled():
    empty = count_confusion(np.full((2, 2), 255), np.zeros((2, 2), int), 2)
    assert np.isnan(intersection_over_union(empty)).all()
    assert math.isnan(segmentation_metrics(empty, ["a", "b"])["mIoU"])
