from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from scipy.ndimage import label

from d2_multitask.data.labels.edges import transform_boundary
from d2_multitask.data.transforms.crops import ScaleCropTransform


def ring(height=40, width=60):
    """The contour of a disc, one pixel thin."""
    y, x = np.indices((height, width))
    disc = (x - 30) ** 2 + (y - 20) ** 2 < 15**2
    inner = disc[1:-1, :-2] & disc[1:-1, 2:] & disc[:-2, 1:-1] & disc[2:, 1:-1]
    edge = disc.copy()
    edge[1:-1, 1:-1] &= ~inner
    return edge.astype(np.uint8)


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0, 2.0, 3.3])
def test_a_ring_stays_one_thin_ring(scale):
    boundary = ring()
    size = round(40 * scale), round(60 * scale)
    moved = transform_boundary(boundary, T.ResizeTransform(40, 60, *size))
    assert moved.shape == size and set(np.unique(moved)) == {0, 1}
    parts, count = label(moved, np.ones((3, 3)))
    assert count == 1
    # What is enclosed stays enclosed: inside and outside are two regions.
    assert label(moved == 0)[1] == 2
    # As long as it should be, so one pixel thin; small rings have steeper stairs.
    assert moved.sum() == pytest.approx(boundary.sum() * scale, rel=0.35)


def test_a_flip_is_a_flip():
    boundary = ring()
    boundary[3, 4] = 1
    moved = transform_boundary(boundary, T.HFlipTransform(60))
    assert np.array_equal(moved, boundary[:, ::-1])


def test_ignored_pixels_stay_ignored_and_padding_is_ignored():
    boundary = np.zeros((10, 10), np.uint8)
    boundary[:, :3] = 255
    boundary[5, 2:] = 1
    crop = ScaleCropTransform((1, 1), (-2, 0), (10, 14))
    moved = transform_boundary(boundary, crop)
    assert (moved[:, :2] == 255).all() and (moved[:, 12:] == 255).all()
    assert (moved[:5, 2:5] == 255).all()
    assert (moved[5, 4:12] == 1).all() and (moved[4, 5:12] == 0).all()


def test_the_input_is_not_changed_and_may_be_empty():
    boundary = np.zeros((10, 10), np.uint8)
    boundary.setflags(write=False)
    assert not transform_boundary(boundary, T.ResizeTransform(10, 10, 5, 20)).any()
