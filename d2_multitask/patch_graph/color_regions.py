"""Regions of like colours, on pixels: superpixels that are merged where they touch.

No network is asked. Segments of patches follow the borders of these regions, and they are the
control of what a division of the image owes to the autoencoder.

Letters: H x W pixels, K superpixels.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from d2_multitask.patch_graph.growing import Dendrogram, Merge
from d2_multitask.patch_graph.refine import stretch_labels

# Longer side in pixels that larger images are made smaller to.
LONG_SIDE, MAX_SUPERPIXELS = 480, 1500
SCALES = (1.0, 2.0, 4.0)  # of the contrast at a pixel, standard deviations in pixels
COLOR_UNIT = 30.0  # a distance in CIELAB that counts as much as twice the image's mean contrast
CONTRAST_WEIGHT = 0.5
NUM_REGIONS = 40  # that segments of photographs follow
SIZE_EXPONENT = 0.25  # small regions are merged before large ones of the same difference


class ColorRegions(NamedTuple):
    """Superpixels and how they are merged.

    Attributes:
        superpixels: (H', W') int64, 0..K-1, of the image or of a smaller one.
        merges: a `Dendrogram` of the superpixels, its labels (K,); the score is the difference of
            two regions times -1.
    """

    superpixels: np.ndarray
    merges: Dendrogram

    def labels_at(self, *, num_regions: int) -> np.ndarray:
        """The regions when so many are left, (H', W') int64, 0, 1, ...

        There are fewer where the image has fewer superpixels, at most `MAX_SUPERPIXELS`.
        """
        return self.merges.labels_at(num_regions=num_regions)[self.superpixels]


def color_regions(pixels: np.ndarray) -> ColorRegions:
    """Merge regions that touch, the least different ones first, until one is left.

    The difference of two regions is the distance of their mean colours and the mean contrast along
    the line between them, times a power of their size (as in Ward's method, whose exponent is 1).

    Args:
        pixels: (H, W, 3) uint8, RGB. What is larger than `LONG_SIDE` is made smaller.

    Raises:
        ValueError: the image is no (H, W, 3) uint8.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"Colour regions: found {pixels.shape} {pixels.dtype}, expected (H, W, 3) uint8"
        )
    height, width = pixels.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    contrast = _contrast(lab)
    superpixels, sums = _superpixels(lab, contrast)
    return ColorRegions(superpixels, _merge(sums))


class _Sums(NamedTuple):
    """Over the pixels of each of K regions, and over the lines between pairs that touch, E of them.

    Attributes:
        area: (K,) pixels.
        color: (K, 3), of CIELAB.
        first: (E,) region on one side of a line; each pair once.
        second: (E,) on the other side.
        length: (E,) pairs of pixels across the line.
        strength: (E,) of the contrast, the higher one of each pair of pixels.
    """

    area: np.ndarray
    color: np.ndarray
    first: np.ndarray
    second: np.ndarray
    length: np.ndarray
    strength: np.ndarray


def _contrast(lab: np.ndarray) -> np.ndarray:
    """(H, W), length of the colours' gradient, mean over scales of which each has the mean 1."""
    total = np.zeros(lab.shape[:2], np.float32)
    for scale in SCALES:
        smooth = cv2.GaussianBlur(lab, (0, 0), scale)
        steps = [cv2.Sobel(smooth, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1))]
        length = np.sqrt(sum((step**2).sum(axis=2) for step in steps))
        total += length / max(float(length.mean()), 1e-6)
    return total / len(SCALES)


def _superpixels(lab: np.ndarray, contrast: np.ndarray) -> tuple[np.ndarray, _Sums]:
    """At most `MAX_SUPERPIXELS`, (H, W) int64, and their sums.

    From pixels on, in each round the regions are merged with their least different neighbours,
    where the difference is at most the median; the rounds double the regions' sizes.
    """
    height, width = contrast.shape
    labels = np.arange(height * width)
    grid = labels.reshape(height, width)
    first = np.concatenate([grid[1:].ravel(), grid[:, 1:].ravel()])
    second = np.concatenate([grid[:-1].ravel(), grid[:, :-1].ravel()])
    strength = np.maximum(contrast.ravel()[first], contrast.ravel()[second])
    length = np.ones(len(first))
    area, color = np.ones(labels.size), lab.reshape(-1, 3).astype(np.float64)
    while len(area) > MAX_SUPERPIXELS:
        mean = color / area[:, None]
        cost = _differences(
            mean[first] - mean[second], strength / length, area[first], area[second], labels.size
        )
        best = np.full(len(area), np.inf)
        np.minimum.at(best, first, cost)
        np.minimum.at(best, second, cost)
        merged = (cost == best[first]) | (cost == best[second])
        merged &= cost <= np.median(best)
        pairs = coo_array((merged[merged], (first[merged], second[merged])), (len(area),) * 2)
        count, new = connected_components(pairs, directed=False)
        new = new.astype(np.int64)
        labels = new[labels]
        area = np.bincount(new, area, count)
        color = np.stack([np.bincount(new, channel, count) for channel in color.T], axis=1)
        ends = np.sort(np.stack([new[first], new[second]]), axis=0)
        apart = ends[0] != ends[1]
        keys, lines = np.unique(ends[0, apart] * count + ends[1, apart], return_inverse=True)
        first, second = np.divmod(keys, count)
        length, strength = (np.bincount(lines, sums[apart]) for sums in (length, strength))
    sums = _Sums(area, color, first, second, length, strength)
    return labels.reshape(height, width), sums


def _differences(
    steps: np.ndarray, contrast: np.ndarray, first: np.ndarray, second: np.ndarray, total: int
) -> np.ndarray:
    """Of pairs of regions (N,): of their mean colours (N, 3), contrast between them, areas."""
    color = np.sqrt((steps**2).sum(axis=1)) / COLOR_UNIT
    size = first * second / ((first + second) * total)
    return (color + CONTRAST_WEIGHT * contrast) * size**SIZE_EXPONENT


def _merge(sums: _Sums) -> Dendrogram:
    """Greedily; sums of regions are added up, so that no pixel is visited again."""
    area, color = sums.area.copy(), sums.color.copy()
    count, total = len(area), int(area.sum())
    length, strength = np.zeros((2, count, count))
    for table, values in ((length, sums.length), (strength, sums.strength)):
        table[sums.first, sums.second] = table[sums.second, sums.first] = values

    def differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        steps = color[first] / area[first, None] - color[second] / area[second, None]
        mean = strength[first, second] / length[first, second]
        return _differences(steps, mean, area[first], area[second], total)

    table = np.full((count, count), np.inf)
    pairs = np.nonzero(length)
    table[pairs] = differences(*pairs)
    nearest, lowest = table.argmin(axis=1), table.min(axis=1)
    names = np.arange(count)
    merges = []
    for new in range(count, 2 * count - 1):
        kept = int(lowest.argmin())
        gone = int(nearest[kept])
        first, second = sorted((int(names[kept]), int(names[gone])))
        merges.append(Merge(first, second, new, -float(lowest[kept])))
        names[kept] = new
        for values in (area, color, length, strength):
            values[kept] += values[gone]
        for values, nothing in ((length, 0), (strength, 0), (table, np.inf)):
            values[:, kept], values[kept, kept] = values[kept], nothing
            values[gone], values[:, gone] = nothing, nothing
        touched = np.flatnonzero(length[kept])
        found = differences(np.full(len(touched), kept), touched)
        table[kept, touched], table[touched, kept] = found, found
        changed = np.array([kept, gone, *touched])  # no other region's neighbours have changed
        nearest[changed] = table[changed].argmin(axis=1)
        lowest[changed] = table[changed, nearest[changed]]
    return Dendrogram(np.arange(count), tuple(merges))


def follow_regions(patch_labels: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Labels of patches to labels of regions, whose pixels vote.

    Args:
        patch_labels: (h, w) integers >= 0, stretched over the regions.
        regions: (H, W), 0..R-1.

    Returns:
        (H, W) int64; labels that win no region are gone.
    """
    squares = stretch_labels(patch_labels, regions.shape)
    count = int(squares.max()) + 1
    votes = np.bincount((regions * count + squares).ravel(), minlength=(regions.max() + 1) * count)
    return votes.reshape(-1, count).argmax(axis=1)[regions]
