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
    superpixels = _superpixels(lab, contrast)
    return ColorRegions(superpixels, _merge(superpixels, lab, contrast))


def _contrast(lab: np.ndarray) -> np.ndarray:
    """(H, W), length of the colours' gradient, mean over scales of which each has the mean 1."""
    total = np.zeros(lab.shape[:2], np.float32)
    for scale in SCALES:
        smooth = cv2.GaussianBlur(lab, (0, 0), scale)
        steps = [cv2.Sobel(smooth, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1))]
        length = np.sqrt(sum((step**2).sum(axis=2) for step in steps))
        total += length / max(float(length.mean()), 1e-6)
    return total / len(SCALES)


def _superpixels(lab: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """At most `MAX_SUPERPIXELS`, (H, W) int64.

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
    return labels.reshape(height, width)


def _differences(
    steps: np.ndarray, contrast: np.ndarray, first: np.ndarray, second: np.ndarray, total: int
) -> np.ndarray:
    """Of pairs of regions (N,): of their mean colours (N, 3), contrast between them, areas."""
    color = np.sqrt((steps**2).sum(axis=1)) / COLOR_UNIT
    size = first * second / ((first + second) * total)
    return (color + CONTRAST_WEIGHT * contrast) * size**SIZE_EXPONENT


def _merge(superpixels: np.ndarray, lab: np.ndarray, contrast: np.ndarray) -> Dendrogram:
    """Greedily; sums over pixels and lines are added up, so that no pixel is visited again."""
    count = int(superpixels.max()) + 1
    flat = superpixels.ravel()
    area = np.bincount(flat, minlength=count).astype(np.float64)
    color = np.stack([np.bincount(flat, lab[..., c].ravel(), count) for c in range(3)], axis=1)
    length, strength = _lines(superpixels, contrast, count)

    def differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        steps = color[first] / area[first, None] - color[second] / area[second, None]
        mean = strength[first, second] / length[first, second]
        return _differences(steps, mean, area[first], area[second], flat.size)

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
        for sums in (area, color, length, strength):
            sums[kept] += sums[gone]
        for sums, nothing in ((length, 0), (strength, 0), (table, np.inf)):
            sums[:, kept], sums[kept, kept] = sums[kept], nothing
            sums[gone], sums[:, gone] = nothing, nothing
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


def _lines(
    superpixels: np.ndarray, contrast: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pixels on the line between two superpixels, and the sum of their contrasts; (K, K)
    each, symmetric.
    """
    length, strength = (np.zeros(count * count) for _ in range(2))
    for first, second in (
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        apart = superpixels[first] != superpixels[second]
        pairs = (superpixels[first] * count + superpixels[second])[apart]
        highest = np.maximum(contrast[first], contrast[second])[apart]
        length += np.bincount(pairs, minlength=count * count)
        strength += np.bincount(pairs, highest, count * count)
    tables = (sums.reshape(count, count) for sums in (length, strength))
    length, strength = (table + table.T for table in tables)
    return length, strength
