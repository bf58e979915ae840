from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.utils.env import seed_all_rng
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_multitask.data.transforms.crops import ScaleCrop, ScaleCropTransform

_SCALE = st.floats(0.05, 20)
_ORIGIN = st.floats(-500, 500)


def _transform(scale=(1.0, 1.0), origin=(0.0, 0.0), output=(4, 6), **kwargs):
    return ScaleCropTransform(scale, origin, output, **kwargs)


@settings(deadline=None)
@given(_SCALE, _ORIGIN, _ORIGIN)
def test_boxes_move_as_their_corners(scale, x, y):
    transform = _transform((scale, scale), (x, y))
    box = np.array([[3.0, 4.0, 30.0, 50.0]])
    expected = transform.apply_coords(box.reshape(2, 2)).reshape(1, 4)
    np.testing.assert_allclose(transform.apply_box(box), expected)


def test_points_are_not_changed_in_place():
    points = np.array([[1.0, 2.0]])
    _transform((2, 2)).apply_coords(points)
    np.testing.assert_array_equal(points, [[1.0, 2.0]])


def test_whole_pixel_shift_copies_pixels_and_fills_outside():
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)[:, :, None].repeat(3, 2)
    transform = _transform(origin=(-2, 1), output=(4, 5), fill=(7, 8, 9))
    moved = transform.apply_image(image)
    np.testing.assert_array_equal(moved[:3, 2:], image[1:, :3])
    np.testing.assert_array_equal(moved[3], [[7, 8, 9]] * 5)
    np.testing.assert_array_equal(moved[:, :2], [[[7, 8, 9]] * 2] * 4)


def test_segmentation_is_nearest_and_ignored_outside():
    ids = np.array([[0, 1], [2, 3]], np.uint8)
    transform = _transform((2, 2), (-0.5, 0), output=(4, 6))
    expected = [
        [255, 0, 0, 1, 1, 255],
        [255, 0, 0, 1, 1, 255],
        [255, 2, 2, 3, 3, 255],
        [255, 2, 2, 3, 3, 255],
    ]
    np.testing.assert_array_equal(transform.apply_segmentation(ids), expected)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param((4, 6), np.uint8, id="gray"),
        pytest.param((4, 6, 1), np.uint8, id="one channel"),
        pytest.param((4, 6, 3), np.float32, id="float"),
    ],
)
def test_kinds_of_images(shape, dtype):
    moved = _transform((3, 3), (1, 1), output=(5, 7)).apply_image(np.ones(shape, dtype))
    assert moved.shape == (5, 7, *shape[2:]) and moved.dtype == dtype


@pytest.mark.parametrize("scale", [0.07, 0.2, 0.45, 0.9, 1.0, 3.0])
def test_image_moves_as_the_points(scale):
    # A bright disc must be where its centre is moved to, at every zoom.
    rows, columns = np.mgrid[:400, :500] + 0.5
    center, radius = np.array([[200.25, 130.75]]), 60
    disc = np.hypot(columns - center[0, 0], rows - center[0, 1]) < radius
    image = (255 * disc).astype(np.uint8)
    transform = _transform((scale, scale), (33.3, 21.7), output=(600, 700))
    for moved, tolerance in (
        (transform.apply_image(image) / 255.0, 0.1),
        (transform.apply_segmentation(image) == 255, 0.3),
    ):
        inside = transform.apply_coords(np.array([[0.0, 0.0], [500.0, 400.0]]))
        (x0, y0), (x1, y1) = inside.clip(0).astype(int)
        weight = moved[y0:y1, x0:x1].astype(float)
        ys, xs = np.mgrid[y0 : y0 + weight.shape[0], x0 : x0 + weight.shape[1]] + 0.5
        found = np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()
        np.testing.assert_allclose(found, transform.apply_coords(center)[0], atol=tolerance)
        np.testing.assert_allclose(weight.sum(), np.pi * (radius * scale) ** 2, rtol=0.06)


def test_strong_shrinking_averages_instead_of_skipping():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 200
    small = _transform((0.125, 0.125), output=(8, 8)).apply_image(stripes)
    np.testing.assert_allclose(small[1:-1, 1:-1].astype(int), 100, atol=2)


def _draw(size, seed=0, **kwargs):
    seed_all_rng(seed)
    return ScaleCrop(**kwargs).get_transform(np.zeros((*size, 3), np.uint8))


def test_zoom_one_just_holds_the_image():
    for size in ((100, 200), (200, 100)):
        transform = _draw(size, output_size=(64, 64), scale_range=(1, 1))
        assert transform.scale_xy == (64 / 200, 64 / 200)
        assert transform.output_size == (64, 64)


def test_output_that_is_not_square_keeps_the_aspect():
    transform = _draw((100, 200), output_size=(192, 256), scale_range=(1, 1))
    assert transform.scale_xy == (256 / 200, 256 / 200)  # the width is what limits


@pytest.mark.parametrize(
    ("size", "border"),
    [
        pytest.param((300, 600), 128, id="large image: as asked"),
        pytest.param((256, 256), 64, id="halved until it is less than half of the image"),
        pytest.param((20, 20), 8, id="small image"),
    ],
)
def test_center_stays_away_from_the_edges(size, border):
    centers = []
    for seed in range(300):
        transform = _draw(size, seed, output_size=(64, 64))
        scale, origin = np.array(transform.scale_xy), np.array(transform.origin_xy)
        centers.append(origin + 32 / scale)
    low, high = np.min(centers, axis=0), np.max(centers, axis=0)
    assert (low >= border).all() and (high <= np.array(size[::-1]) - border).all()
    assert (low < border + 0.05 * size[1]).all()


def test_scales_fill_the_range():
    scales = [64 / 100 / _draw((100, 100), s, output_size=(64, 64)).scale_xy[0] for s in range(300)]
    assert 0.6 <= min(scales) < 0.63 and 1.37 < max(scales) <= 1.4


@pytest.mark.parametrize(
    ("kwargs", "key"),
    [
        pytest.param({"output_size": (0, 64)}, "SIZE", id="no size"),
        pytest.param({"output_size": (64,)}, "SIZE", id="one number"),
        pytest.param(
            {"output_size": (64, 64), "scale_range": (1.4, 0.6)}, "SCALE_RANGE", id="order"
        ),
        pytest.param({"output_size": (64, 64), "scale_range": (0, 1)}, "SCALE_RANGE", id="zero"),
    ],
)
def test_bad_values(kwargs, key):
    with pytest.raises(ValueError, match=f"INPUT.SCALE_CROP.{key}: found"):
        ScaleCrop(**kwargs)


def test_works_as_an_augmentation():
    aug_input = T.AugInput(np.zeros((40, 30, 3), np.uint8), sem_seg=np.zeros((40, 30), np.uint8))
    transform = ScaleCrop((16, 24), ignore_value=99)(aug_input)
    assert isinstance(transform, T.Transform)
    assert aug_input.image.shape == (16, 24, 3)
    assert set(np.unique(aug_input.sem_seg)) <= {0, 99}
    assert "ScaleCrop(output_size=(16, 24)" in repr(ScaleCrop((16, 24)))
