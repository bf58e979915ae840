from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.utils.env import seed_all_rng

from d2_multitask.data.transforms.color import ColorJitter, ColorMatrixTransform, color_matrix


def _image():
    return np.random.default_rng(0).integers(80, 140, (20, 30, 3), dtype=np.uint8)


def _apply(image, weights, order=(0, 1, 2), **kwargs):
    mean = image.reshape(-1, 3).mean(axis=0)
    return ColorMatrixTransform(color_matrix(weights, order, mean, **kwargs)).apply_image(image)


@pytest.mark.parametrize("weight", [0.6, 1.4])
@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        pytest.param(0, T.RandomBrightness, id="brightness"),
        pytest.param(2, T.RandomSaturation, id="saturation"),
    ],
)
def test_one_blend_is_detectron2s(kind, theirs, weight):
    weights = np.ones(3)
    weights[kind] = weight
    expected = theirs(weight, weight).get_transform(_image()).apply_image(_image())
    ours = _apply(_image(), weights)
    np.testing.assert_allclose(ours.astype(int), expected.astype(int), atol=1)


def test_contrast_blends_with_the_mean_gray():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0] = (200, 100, 50)  # RGB; grey value 124.2, mean grey of the image 62.1
    np.testing.assert_array_equal(_apply(image, (1, 0, 1)), np.full((2, 2, 3), 62))
    half = _apply(image, (1, 0.5, 1))
    np.testing.assert_array_equal(half[:, 0], [[131, 81, 56], [31, 31, 31]])


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        pytest.param((0, 1, 2), 31, id="the mean after it was darkened"),
        pytest.param((1, 0, 2), 31, id="darkened after it became flat"),
    ],
)
def test_the_mean_is_that_of_the_image_so_far(order, expected):
    image = np.zeros((2, 2, 3), np.uint8)
    image[0] = (200, 100, 50)
    flat = _apply(image, (0.5, 0, 1), order)
    np.testing.assert_array_equal(flat, np.full((2, 2, 3), expected))


@pytest.mark.parametrize(("image_format", "blue"), [("BGR", 0), ("RGB", 2)])
def test_channel_order_is_known(image_format, blue):
    seed_all_rng(0)
    matrix = ColorJitter(0, 0, 1, image_format).get_transform(_image()).matrix
    to_green, to_itself = matrix[1, blue], matrix[blue, blue]
    weight = to_itself - to_green
    assert weight != pytest.approx(1, abs=0.05)  # something was drawn
    assert to_green == pytest.approx((1 - weight) * 0.114)


def test_strengths_and_order_are_drawn():
    def matrices(**kwargs):
        seed_all_rng(0)
        jitter = ColorJitter(**kwargs)
        return np.array([jitter.get_transform(_image()).matrix for _ in range(200)])

    np.testing.assert_array_equal(matrices(), matrices())
    brightness = matrices(contrast=0, saturation=0)[:, 0, 0]
    assert 0.6 <= brightness.min() < 0.63 and 1.37 < brightness.max() <= 1.4
    nothing = matrices(brightness=0, contrast=0, saturation=0)
    np.testing.assert_allclose(nothing, np.tile(np.eye(3, 4), (200, 1, 1)), atol=1e-12)


def test_saturates_instead_of_wrapping_around():
    transform = ColorMatrixTransform(np.column_stack([3 * np.eye(3), [-10, 0, 10]]))
    np.testing.assert_array_equal(
        transform.apply_image(np.array([[[1, 100, 50]]], np.uint8)), [[[0, 255, 160]]]
    )


def test_moves_nothing():
    transform = ColorMatrixTransform(np.eye(3, 4))
    points = np.array([[1.0, 2.0]])
    np.testing.assert_array_equal(transform.apply_coords(points), points)
    ids = np.array([[3]])
    np.testing.assert_array_equal(transform.apply_segmentation(ids), ids)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        pytest.param({"brightness": 1.5}, "BRIGHTNESS: found 1.5, expected 0 to 1", id="strength"),
        pytest.param({"image_format": "L"}, "INPUT.FORMAT: found 'L'", id="no colours"),
    ],
)
def test_bad_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ColorJitter(**kwargs)
