"""Colours, blending and sizes, on pictures small enough to be checked by eye."""

from __future__ import annotations

import numpy as np
import pytest

from d2_multitask.visualization import style


def grey(height: int = 40, width: int = 60, value: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("image_hw", "expected"),
    [
        pytest.param((160, 160), 4.0, id="small-square"),
        pytest.param((80, 160), 4.0, id="the-longer-side-counts"),
        pytest.param((640, 480), 1.0, id="as-large-as-wanted"),
        pytest.param((2000, 1000), 1.0, id="large-stays"),
    ],
)
def test_zoom_brings_the_longer_side_to_640(image_hw, expected):
    found = style.enlarge(np.zeros((*image_hw, 3), np.uint8), 640).shape
    assert found == (expected * image_hw[0], expected * image_hw[1], 3)


def test_enlarge_gives_a_copy_even_without_zoom():
    image = grey()
    enlarged = style.enlarge(image, 1)
    enlarged[:] = 0
    assert image.min() == 100


def test_enlarge_multiplies_both_sides():
    assert style.enlarge(grey(40, 60), 150).shape == (100, 150, 3)


def test_neighbouring_objects_differ_in_colour():
    colors = [style.object_color(i) for i in range(40)]
    assert all(a != b for a, b in zip(colors, colors[1:], strict=False))
    assert len(set(colors)) == len(style.OBJECT_COLORS)


def test_no_object_has_the_colour_of_a_class():
    assert not set(style.OBJECT_COLORS) & set(style.CLASS_COLORS)


def test_a_resized_mask_covers_the_same_part():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    resized = style.resize_mask(mask, (40, 60))
    assert resized.shape == (40, 60)
    assert resized[12:28, 22:48].all()
    assert not resized[:8].any()
    assert abs(resized.mean() - mask.mean()) < 0.03


def test_blend_color_mixes_inside_and_leaves_the_rest():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:40] = True
    image = grey()
    blended = style.blend_color(image, mask, (200, 0, 100), alpha=0.5)
    # 100 * 0.5 + color * 0.5, away from the outline.
    assert blended[20, 25].tolist() == [150, 50, 100]
    assert blended[35, 50].tolist() == [100, 100, 100]
    assert image.min() == image.max() == 100  # the input is untouched


def test_blend_color_draws_a_lighter_outline():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:40] = True
    blended = style.blend_color(grey(), mask, (200, 0, 100), alpha=0.5)
    assert (blended[20, 10] > blended[20, 25]).all()


def test_blend_color_of_nothing_changes_nothing():
    image = grey()
    assert (style.blend_color(image, np.zeros((40, 60), bool), (255, 0, 0)) == image).all()


@pytest.mark.parametrize("value", [0, 60, 115, 170, 255])
def test_hatching_is_seen_on_any_ground(value):
    mask = np.zeros((40, 60), bool)
    mask[:, :30] = True
    hatched = style.blend_hatching(grey(value=value), mask)
    assert np.ptp(hatched[:, :30].astype(int)) > 40
    assert (hatched[:, 30:] == value).all()


def test_heatmap_covers_where_it_is_high_and_only_dims_where_it_is_zero():
    image = np.zeros((40, 40, 3), np.uint8)
    image[..., 0] = 200
    heatmap = np.zeros((10, 10), np.float32)
    heatmap[2, 7] = 1
    blended = style.blend_heatmap(image, heatmap)
    r, g, b = blended[35, 5].tolist()
    assert r == g == b > 0  # grey where the map is 0
    # The peak is in cell (2, 7): pixels 8..11 x 28..31.
    saturation = np.ptp(blended.astype(int), axis=2)
    peak = np.unravel_index(saturation.argmax(), saturation.shape)
    assert 6 <= peak[0] <= 13
    assert 26 <= peak[1] <= 33


def test_heatmap_with_nan_and_values_outside_is_drawn():
    heatmap = np.array([[np.nan, -3.0], [7.0, 0.5]])
    blended = style.blend_heatmap(grey(), heatmap)
    assert blended.dtype == np.uint8
    assert blended.shape == (40, 60, 3)


def test_lines_grow_with_the_picture():
    assert style.line_width((512, 512)) == 2
    assert style.line_width((1024, 1024)) == 4
    assert style.line_width((10, 10)) == 1.2
