from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from d2_multitask.data.labels.masks import (
    MaskError,
    clean_segmentation,
    decode,
    mask_box,
    rle_run_lengths,
    to_rle,
)

H, W = 6, 8
SQUARE = [1, 1, 5, 1, 5, 4, 1, 4]


def _encode(mask):
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.booleans())
)
def test_run_lengths_are_those_that_pycocotools_wrote(mask):
    column_wise = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(column_wise)) + 1
    expected = np.diff([0, *edges, column_wise.size])
    if column_wise[0]:
        expected = [0, *expected]
    np.testing.assert_array_equal(rle_run_lengths(_encode(mask)["counts"]), expected)


def test_run_lengths_of_a_large_mask():
    mask = np.zeros((3000, 4000), bool)
    mask[10, 3999] = True
    runs = rle_run_lengths(_encode(mask)["counts"])
    np.testing.assert_array_equal(runs, [3000 * 3999 + 10, 1, 2989])


def test_polygon_and_rle_give_the_same_mask():
    expected = np.zeros((H, W), bool)
    expected[1:4, 1:5] = True
    for segmentation in (
        [SQUARE],
        _encode(expected),
        {"size": [H, W], "counts": _counts(expected)},
    ):
        np.testing.assert_array_equal(decode(to_rle(segmentation, H, W)), expected)
        assert mask_box(segmentation, H, W) == [1, 1, 4, 3]


def _counts(mask):
    return rle_run_lengths(_encode(mask)["counts"]).tolist()


def test_polygons_of_one_object_are_united():
    other = [5, 4, 7, 4, 7, 6, 5, 6]
    mask = decode(to_rle([SQUARE, other], H, W))
    assert mask.sum() == 12 + 4


def test_a_degenerate_polygon_does_not_cost_the_others():
    assert clean_segmentation([SQUARE, [1, 1, 2, 2], []], H, W) == [SQUARE]


FULL = _encode(np.ones((H, W), bool))["counts"]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        pytest.param([[1, 1, 2, 2]], "at least three points", id="line"),
        pytest.param([[1, 1, 5, 1, 5, 4, 1]], "7 numbers, expected pairs", id="odd count"),
        pytest.param([[1, 1, 5, float("nan"), 5, 4]], "NaN", id="NaN"),
        pytest.param([[1, 1, 5, float("inf"), 5, 4]], "NaN or an infinite", id="infinite"),
        pytest.param([1, 1, 5, 1, 5, 4], "not a list of finite numbers", id="flat list"),
        pytest.param([["a", 1, 5, 1, 5, 4]], "not a list of finite numbers", id="text"),
        pytest.param([[1, 1, 1e9, 1, 5, 4]], "far outside", id="far outside"),
        pytest.param("mask.png", "found str", id="file name"),
        pytest.param(
            {"size": [W, H], "counts": FULL}, r"size \[8, 6\], expected \[6, 8\]", id="turned"
        ),
        pytest.param({"counts": FULL}, "size None", id="no size"),
        pytest.param({"size": [H, W]}, "expected text or a list", id="no counts"),
        pytest.param({"size": [H, W], "counts": ""}, "empty", id="empty text"),
        pytest.param({"size": [H, W], "counts": "~~"}, "other characters", id="wrong characters"),
        pytest.param({"size": [H, W], "counts": "o"}, "inside a number", id="cut in a number"),
        pytest.param({"size": [H, W], "counts": "1" * 3}, "expected 48", id="too few pixels"),
        pytest.param({"size": [H, W], "counts": [40, -2, 10]}, "no negative", id="negative"),
        pytest.param({"size": [H, W], "counts": [40, 9]}, "49 pixels, expected 48", id="too many"),
        pytest.param({"size": [H, W], "counts": [48]}, "without any pixel", id="nothing"),
        pytest.param({"size": [H, W], "counts": [1.5, 46.5]}, "not all integers", id="fractions"),
    ],
)
def test_unusable_masks(segmentation, message):
    with pytest.raises(MaskError, match=message):
        to_rle(segmentation, H, W)
