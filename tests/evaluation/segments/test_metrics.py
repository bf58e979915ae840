"""Numbers of one image, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from d2_multitask.evaluation.segments import (
    adjusted_rand_index,
    best_segment_iou,
    mask_iou,
    measure_segments,
    patch_mask,
)


def test_mask_iou():
    first = np.array([1, 1, 1, 0, 0], bool)
    assert mask_iou(first, np.array([0, 1, 1, 1, 0], bool)) == 2 / 4
    assert mask_iou(first, ~first) == 0
    assert mask_iou(first & False, first & False) == 1


def test_best_segment():
    segments = np.array([0, 0, 0, 2, 2, 2, 2, 3])  # number 1 does not occur
    mask = np.array([0, 0, 1, 1, 1, 1, 0, 0], bool)
    # segment 0: 1 / 6, segment 2: 3 / 5, segment 3: 0
    assert best_segment_iou(segments, mask) == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # Hubert and Arabie's formula by hand. Pairs together in both: 1; in the first: 2; in the
        # second: 1; of 6. Expected 1 / 3, highest 1.5: (1 - 1/3) / (1.5 - 1/3).
        ([0, 0, 1, 1], [0, 0, 1, 2], 4 / 7),
        # Both 2 of 6, none in common: (0 - 2/3) / (2 - 2/3).
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5),
        # 3 + 3 pairs and 6 + 0: in both 1 + 3... = 3 + 1: (4 - 6 * 7 / 15) / (6.5 - 2.8).
        ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1], (4 - 2.8) / (6.5 - 2.8)),
        ([0, 0, 0], [5, 5, 5], 1.0),
        ([0, 1, 2], [2, 1, 0], 1.0),
        ([0, 0, 1, 1], [7, 7, 7, 7], 0.0),
    ],
)
def test_adjusted_rand_index(first, second, expected):
    first, second = np.array(first), np.array(second)
    assert adjusted_rand_index(first, second) == pytest.approx(expected)
    assert adjusted_rand_index(second, first) == pytest.approx(expected)


@given(arrays.arrays(np.int64, (4, 5), elements=st.integers(0, 3)), st.permutations(range(4)))
def test_adjusted_rand_index_knows_no_names(labels, names):
    assert adjusted_rand_index(labels, np.array(names)[labels]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("columns", "located"), [((0, 4), 1), ((0, 8), 1), ((1, 5), 1), ((2, 6), 0), ((5, 5), 0)]
)
def test_boxes(columns, located):
    """The box of two corner pixels of 4x4; IoUs 1, 16 / 32, 12 / 20, 8 / 24 and of nothing."""
    objects = np.zeros((6, 8), int)
    objects[1, 0] = objects[4, 3] = 1
    foreground = np.zeros((6, 8), bool)
    foreground[1:5, slice(*columns)] = True
    found = measure_segments(np.zeros((6, 8), int), foreground, objects)
    assert found.corloc == located


def test_patches_are_covered_by_half():
    mask = np.zeros((4, 6), bool)
    mask[:2, :2] = True
    mask[2:, 3] = True  # half of the patch
    mask[0, 4] = True  # a quarter of it
    assert patch_mask(mask, (2, 3)).tolist() == [[True, False, False], [False, True, False]]


def test_one_image():
    objects = np.zeros((4, 8), int)
    objects[:2, :4], objects[2:, 6:] = 1, 2
    segments = np.zeros((4, 8), int)
    segments[:2, :4], segments[:2, 4:] = 1, 2
    found = measure_segments(segments, segments == 1, objects, (2, 4))
    assert found.iou == 8 / 12 and found.patch_iou == 2 / 3 and found.best_iou == 8 / 12
    assert found.corloc == 1  # the box of the first object
    assert 0 < found.ari < 1


def test_no_object_is_an_answer():
    objects = np.zeros((2, 4), int)
    objects[0] = 1
    found = measure_segments(np.zeros((2, 4), int), None, objects)
    assert (found.iou, found.corloc, found.best_iou) == (0, 0, 0.5)
    nothing = measure_segments(np.zeros((2, 4), int), None, objects * 0)
    assert nothing.iou == 1 and math.isnan(nothing.corloc) and math.isnan(nothing.best_iou)


def test_what_is_not_labelled_does_not_count():
    objects = np.array([[1, 1, 0, 0, -1, -1]])
    segments = np.array([[1, 1, 0, 0, 1, 0]])
    found = measure_segments(segments, segments == 1, objects)
    assert (found.iou, found.best_iou, found.ari) == (1, 1, 1)
