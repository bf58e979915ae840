"""The drawn textures: the same everywhere, and hard in the way that they are meant to be."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest

from synthetic.textures import KINDS, TextureConfig, draw_textures

QUIET = TextureConfig(noise=0.0, shading=0.0)


def test_pixels_are_those_that_were_drawn_before():
    # Of the first version: other ones are another dataset, see GENERATOR_VERSION.
    scene = draw_textures(0, "same_palette", "train", 3)
    digest = hashlib.sha256(scene.image.tobytes() + scene.mask.tobytes()).hexdigest()
    assert digest[:16] == "952d0efc50938cb5"


def test_arguments_name_the_image():
    first = draw_textures(1, "same_palette", "test", 0)
    assert np.array_equal(first.image, draw_textures(1, "same_palette", "test", 0).image)
    for others in ((2, "same_palette", "test", 0), (1, "same_palette", "val", 0)):
        assert not np.array_equal(first.image, draw_textures(*others).image)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (48, 120)])
def test_objects_are_inside_and_of_the_asked_area(kind, size):
    config = TextureConfig(height=size[0], width=size[1])
    scenes = [draw_textures(0, kind, "test", index, config) for index in range(30)]
    for scene in scenes:
        assert scene.image.shape == (*size, 3) and scene.mask.shape == size
        border = np.ones(size, bool)
        border[1:-1, 1:-1] = False
        assert scene.mask[border].mean() < 0.05
    if size == (64, 64):
        areas = np.array([scene.mask.mean() for scene in scenes])
        assert 0.15 < areas.min() and areas.max() < 0.29 and 0.2 < areas.mean() < 0.24


def spectrum_peak(pixels: np.ndarray) -> tuple[int, int]:
    """The strongest wave of a square region: how often it repeats down and across."""
    values = pixels.astype(float).sum(2)
    power = np.abs(np.fft.rfft2(values - values.mean()))
    y, x = np.unravel_index(power.argmax(), power.shape)
    return min(y, len(values) - y), x


def test_same_palette_differs_in_stripes_only():
    distances, equal = [], 0
    for index in range(60):
        scene = draw_textures(5, "same_palette", "test", index, QUIET)
        colors = [scene.image[where].astype(float).mean(0) for where in (scene.mask, ~scene.mask)]
        distances.append(np.abs(colors[0] - colors[1]).max())
        rows, columns = np.nonzero(scene.mask)
        y, x = round(rows.mean()) - 12, round(columns.mean()) - 12
        inside = spectrum_peak(scene.image[max(y, 0) : y + 24, max(x, 0) : x + 24])
        corners = [scene.image[i : i + 24, j : j + 24] for i in (0, 40) for j in (0, 40)]
        masks = [scene.mask[i : i + 24, j : j + 24] for i in (0, 40) for j in (0, 40)]
        outside = spectrum_peak(corners[int(np.argmin([m.sum() for m in masks]))])
        equal += inside == outside
    assert np.mean(distances) < 12  # grey levels: what parts of periods leave
    assert equal < 6


def test_other_palettes_have_other_colors():
    for index in range(20):
        scene = draw_textures(5, "other_palette", "test", index, QUIET)
        colors = [scene.image[where].astype(float).mean(0) for where in (scene.mask, ~scene.mask)]
        assert np.linalg.norm(colors[0] - colors[1]) > 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 20}, "height: expected at least 32"),
        ({"periods": (8, 8)}, "periods: expected two or more different ones"),
        ({"area": (0.2, 0.5)}, "area: expected (low, high)"),
        ({"contrast": 500.0}, "contrast, palette_distance: expected"),
        ({"noise": -1.0}, "shading, noise: expected"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(TextureConfig(), **changes)


def test_unknown_kind():
    with pytest.raises(ValueError, match="kind: expected one of"):
        draw_textures(0, "plaid", "test", 0)
