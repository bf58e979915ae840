from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_multitask.modeling.mae.masking import (
    VARIANCE_EPS,
    patch_grid,
    patch_statistics,
    patchify,
    unpatchify,
)


def test_order_is_row_column_channel():
    # pixel (c, y, x) of a 4x6 image has the value 100 c + 10 y + x
    c, y, x = torch.meshgrid(*(torch.arange(n) for n in (3, 4, 6)), indexing="ij")
    patches = patchify((100 * c + 10 * y + x)[None], 2)
    assert patches.shape == (1, 6, 12)
    assert patches[0, 0].tolist() == [0, 100, 200, 1, 101, 201, 10, 110, 210, 11, 111, 211]
    # patches are in reading order: the fourth begins the second row
    assert patches[0, :, 0].tolist() == [0, 2, 4, 20, 22, 24]


@settings(max_examples=20, deadline=None)
@given(h=st.integers(1, 4), w=st.integers(1, 4), patch=st.integers(1, 5))
def test_round_trip(h, w, patch):
    images = torch.rand(2, 3, h * patch, w * patch)
    assert torch.equal(unpatchify(patchify(images, patch), patch, (h, w)), images)


@pytest.mark.parametrize(
    ("hw", "message"),
    [
        pytest.param((33, 32), "32x33.*cannot be cut into patches of 8x8.*32x32", id="height"),
        pytest.param((32, 20), "20x32.*cannot be cut.*16x32", id="width"),
        pytest.param((4, 32), "32x4.*smaller than a patch of 8x8", id="smaller"),
    ],
)
def test_sizes_that_do_not_fit(hw, message):
    with pytest.raises(ValueError, match=message):
        patch_grid(hw, 8)


def test_patches_of_another_grid():
    with pytest.raises(ValueError, match="found 6 of 12 numbers, expected 4"):
        unpatchify(torch.zeros(1, 6, 12), 2, (2, 2))


def test_variance_is_unbiased():
    mean, deviation = patch_statistics(torch.tensor([[1.0, 2.0, 3.0, 6.0]]))
    assert mean.item() == 3
    # squares 4 + 1 + 0 + 9 = 14, divided by 3
    assert deviation.item() == pytest.approx((14 / 3 + VARIANCE_EPS) ** 0.5)
