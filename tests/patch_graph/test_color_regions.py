"""Regions of like colours: sums that are kept up to date against definitions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from d2_multitask.patch_graph import color_regions as module
from d2_multitask.patch_graph.color_regions import (
    COLOR_UNIT,
    CONTRAST_WEIGHT,
    SIZE_EXPONENT,
    color_regions,
    follow_regions,
)

HEIGHT, WIDTH = 40, 60


@pytest.fixture(scope="module")
def pixels():
    """A square and a bar on a background, with noise."""
    image = np.full((HEIGHT, WIDTH, 3), (60, 120, 70), np.int64)
    image[8:24, 10:26] = (200, 60, 40)
    image[28:36, 5:55] = (40, 60, 200)
    noise = np.random.default_rng(0).integers(-12, 13, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def test_shapes_are_found(pixels):
    labels = color_regions(pixels).labels_at(num_regions=3)
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[8:24, 10:26], expected[28:36, 5:55] = 1, 2
    for number in range(3):
        (found,) = np.unique(labels[expected == number])
        assert np.array_equal(labels == found, expected == number)


def difference(labels, first, second, lab, contrast):
    """By its definition, from the pixels; infinite if the two do not touch."""
    masks = [labels == number for number in (first, second)]
    line = []
    for axis in (0, 1):
        a, b = (slice(1, None), slice(None, -1))
        a, b = ((side,) if axis == 0 else (slice(None), side) for side in (a, b))
        for one, two in (masks, masks[::-1]):
            touch = one[a] & two[b]
            line += np.maximum(contrast[a], contrast[b])[touch].tolist()
    if not line:
        return np.inf
    color = np.linalg.norm(lab[masks[0]].mean(axis=0) - lab[masks[1]].mean(axis=0)) / COLOR_UNIT
    areas = [mask.sum() for mask in masks]
    size = areas[0] * areas[1] / (sum(areas) * labels.size)
    return (color + CONTRAST_WEIGHT * np.mean(line)) * size**SIZE_EXPONENT


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_least_different_pair_is_merged_each_time(seed, monkeypatch):
    monkeypatch.setattr(module, "MAX_SUPERPIXELS", 60)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 30, 3)).astype(np.uint8)
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2Lab).astype(np.float64)
    contrast = module._contrast(lab.astype(np.float32))
    found = color_regions(pixels)
    merges = found.merges.merges
    assert 30 < len(merges) < 60
    for count in range(len(merges) + 1, 1, -1):
        before, after = (found.labels_at(num_regions=number) for number in (count, count - 1))
        assert len(np.unique(before)) == count and len(np.unique(after)) == count - 1
        pairs = [(i, j) for i in range(count) for j in range(i)]
        costs = [difference(before, i, j, lab, contrast) for i, j in pairs]
        i, j = pairs[int(np.argmin(costs))]
        assert len(np.unique(after[(before == i) | (before == j)])) == 1
        assert -merges[len(merges) + 1 - count].score == pytest.approx(min(costs), rel=1e-4)


def test_every_region_is_in_one_piece(pixels):
    labels = color_regions(pixels).labels_at(num_regions=9)
    for number in range(9):
        count, _ = cv2.connectedComponents((labels == number).astype(np.uint8), connectivity=4)
        assert count == 2  # with the background


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (30, 20)])
def test_one_colour_is_one_region(shape):
    labels = color_regions(np.full((*shape, 3), 80, np.uint8)).labels_at(num_regions=1)
    assert labels.shape == shape and not labels.any()


def test_large_images_are_made_smaller():
    wide = np.random.default_rng(0).integers(0, 256, (30, 960, 3)).astype(np.uint8)
    assert color_regions(wide).superpixels.shape == (15, 480)
    with pytest.raises(ValueError, match=r"found \(30, 960\) float64, expected \(H, W, 3\) uint8"):
        color_regions(np.zeros((30, 960)))


def test_patches_follow_regions():
    regions = np.array([[0, 0, 0, 1], [0, 2, 1, 1]])
    labels = follow_regions(np.array([[3, 5]]), regions)  # two columns of pixels each
    assert labels.tolist() == [[3, 3, 3, 5], [3, 3, 5, 5]]
