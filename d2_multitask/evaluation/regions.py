"""How well one division of an image into regions agrees with another, as the BSDS benchmark counts.

Everything follows from the table of the pixels that a segment and a region share. Letters: K
segments, G regions, N pixels. Numbers that do not occur are empty rows and columns, and change
nothing; where numbers are above N, those that occur count in their order.

Source: Arbelaez et al., TPAMI 2011, and the benchmark's ``match_segmentations.m`` and
``match_segmentations2.m``.
"""

from __future__ import annotations

import numpy as np
from scipy.special import entr


def shared_pixels(segments: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Number of pixels of each pair of a segment and a region, (K, G) int64.

    Args:
        segments: integers >= 0, any shape.
        regions: integers >= 0, same shape.

    Raises:
        ValueError: the shapes differ, there is no pixel, or a number is negative.
    """
    if segments.shape != regions.shape or not segments.size:
        raise ValueError(
            f"segments: found shape {segments.shape}, expected {regions.shape} as the labels"
        )
    rows, columns = _numbers(segments, "segments"), _numbers(regions, "labels")
    shape = int(rows.max()) + 1, int(columns.max()) + 1
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def _numbers(labels: np.ndarray, name: str) -> np.ndarray:
    """(N,) int64, small enough to be counted."""
    flat = labels.ravel().astype(np.int64, copy=False)
    if flat.min() < 0:
        raise ValueError(f"{name}: found the number {flat.min()}, expected 0 or more")
    return flat if flat.max() <= len(flat) else np.unique(flat, return_inverse=True)[1]


def best_overlaps(shared: np.ndarray) -> np.ndarray:
    """The highest IoU that a segment has with each region, (G,); of an empty one 0.

    ``shared`` is (K, G) of `shared_pixels`. The covering of the regions by the segments is the mean
    of these, weighted by the regions' sizes.
    """
    sizes, areas = shared.sum(axis=1), shared.sum(axis=0)
    unions = sizes[:, None] + areas - shared
    return (shared / np.maximum(unions, 1)).max(axis=0)


def rand_index(shared: np.ndarray) -> float:
    """Share of the pairs of pixels that are together in both divisions, or apart in both.

    Args:
        shared: (K, G) of `shared_pixels`.

    Returns:
        1 for the same division. Its mean over several people is the probabilistic Rand index.
    """
    num_pixels = int(shared.sum())
    pairs = num_pixels * (num_pixels - 1) / 2
    apart = (_squares(shared.sum(axis=1)) + _squares(shared.sum(axis=0))) / 2 - _squares(shared)
    return 1 - apart / max(pairs, 1)


def _squares(counts: np.ndarray) -> int:
    return int((counts.astype(np.int64) ** 2).sum())


def variation_of_information(shared: np.ndarray) -> float:
    """H(segments | regions) + H(regions | segments) in bits, as in BSDS; 0 for the same division.

    ``shared`` is (K, G) of `shared_pixels`.
    """
    shares = shared / shared.sum()
    parts = (entr(p).sum() for p in (shares, shares.sum(axis=1), shares.sum(axis=0)))
    joint, segments, regions = parts
    return float(2 * joint - segments - regions) / np.log(2)


def boundary_of(segments: np.ndarray) -> np.ndarray:
    """Lines between segments, (H, W) bool, as BSDS' ``seg2bdry(..., 'imageSize')`` draws them.

    A pixel is on a line if the 2x2 pixels that start at it are not all of one segment; of those in
    the last row and column, the ones inside the image.
    """
    down = np.zeros(segments.shape, bool)
    right = np.zeros(segments.shape, bool)
    down[:-1] = segments[:-1] != segments[1:]
    right[:, :-1] = segments[:, :-1] != segments[:, 1:]
    lines = down | right
    lines[:-1] |= right[1:]
    lines[:, :-1] |= down[:, 1:]
    return lines
