from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_multitask.data.transforms.crops import (
    CenterResizedCrop,
    RandomResizedCrop,
    ResizedCropTransform,
)


def ramp(height: int, width: int) -> np.ndarray:
    """The value of a pixel is its column."""
    return np.tile(np.arange(width, dtype=np.uint8)[None, :, None], (height, 1, 3))


def test_image_points_and_labels_move_alike():
    transform = ResizedCropTransform((10, 20, 50, 40), (40, 80))  # 40x20 pixels, twice as large
    assert transform.apply_coords(np.array([[10, 20], [30, 30]])).tolist() == [[0, 0], [40, 20]]
    image = transform.apply_image(ramp(60, 100))
    assert image.shape == (40, 80, 3)
    # the middle of output column 40 is at 10 + 40.5 / 2 = 30.25, a quarter before pixel 30's end
    assert abs(int(image[20, 40, 0]) - 30) <= 1
    labels = transform.apply_segmentation(ramp(60, 100)[..., 0])
    assert labels.shape == (40, 80)
    assert labels[0, [0, 1, 2, 79]].tolist() == [10, 10, 11, 49]


def test_shrinking_averages():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    small = ResizedCropTransform((0, 0, 64, 64), (4, 4)).apply_image(noise)
    assert small.std() < noise.std() / 4


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 9))
def test_windows_are_inside_and_of_the_asked_area_and_shape(height, width, seed):
    np.random.seed(seed)  # noqa: NPY002 (Detectron2 draws from the global generator)
    crop = RandomResizedCrop((16, 24), scale=(0.3, 0.6), ratio=(0.5, 2.0))
    transform = crop.get_transform(np.zeros((height, width, 3), np.uint8))
    x0, y0, x1, y1 = transform.box_xyxy
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    if min(height, width) > 30 and max(height, width) / min(height, width) < 1.5:
        assert 0.25 < (x1 - x0) * (y1 - y0) / (height * width) < 0.65
        assert 0.45 < (x1 - x0) / (y1 - y0) < 2.2
    assert transform.apply_image(ramp(height, width)).shape == (16, 24, 3)


def test_no_window_fits_a_strip():
    transform = RandomResizedCrop((8, 8), (0.9, 1.0), (1.0, 1.0)).get_transform(ramp(10, 200))
    assert transform.box_xyxy == (95, 0, 105, 10)


@pytest.mark.parametrize(
    ("size", "box"),
    [((8, 8), (10, 0, 50, 40)), ((8, 16), (0, 5, 60, 35)), ((20, 30), (0, 0, 60, 40))],
)
def test_middle(size, box):
    assert CenterResizedCrop(size).get_transform(ramp(40, 60)).box_xyxy == box


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 8),), "SIZE: found"),
        (((8, 8), (0.0, 1.0)), "SCALE: found"),
        (((8, 8), (0.5, 1.5)), "SCALE: found"),
        (((8, 8), (0.5, 1.0), (2.0, 1.0)), "RATIO: found"),
    ],
)
def test_bad_numbers(arguments, message):
    with pytest.raises(ValueError, match=f"INPUT.RANDOM_RESIZED_CROP.{message}"):
        RandomResizedCrop(*arguments)
