"""Metrics of the segments of one image, in [0, 1].

Letters: H x W pixels, h x w patches.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_util

from d2_multitask.data.labels.masks import encode


class SegmentMetrics(NamedTuple):
    """NaN where there is nothing to measure.

    Attributes:
        iou: of the predicted foreground with the mask of all objects, on pixels.
        patch_iou: the same on patches.
        best_iou: of the segment that fits the mask best.
        corloc: 1 if the foreground's box overlaps an object's box with IoU 0.5 or more, else 0.
        ari: adjusted Rand index of segments and label.
    """

    iou: float
    patch_iou: float
    best_iou: float
    corloc: float
    ari: float


def mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two masks of one shape, bool; two empty ones agree: 1."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def best_segment_iou(segments: np.ndarray, mask: np.ndarray) -> float:
    """The highest IoU that one segment reaches with the mask.

    Args:
        segments: integers >= 0, any shape.
        mask: bool, same shape.
    """
    labels = segments.ravel()
    sizes = np.bincount(labels)
    inside = np.bincount(labels[mask.ravel()], minlength=len(sizes))
    unions = sizes + np.count_nonzero(mask) - inside
    return float((inside[sizes > 0] / unions[sizes > 0]).max())


def adjusted_rand_index(first: np.ndarray, second: np.ndarray) -> float:
    """Agreement of two partitions, corrected for chance (Hubert and Arabie 1985, equation 5).

    Args:
        first: integers, any shape.
        second: integers, same shape.

    Returns:
        1 for the same partition, about 0 for unrelated ones, possibly negative. 1 if both have a
        single segment, or both a segment per element.
    """
    _, rows = np.unique(first.ravel(), return_inverse=True)
    _, columns = np.unique(second.ravel(), return_inverse=True)
    num_columns = int(columns.max()) + 1
    counts = np.bincount(rows * num_columns + columns)
    together = _pairs(counts)
    first_pairs, second_pairs = _pairs(np.bincount(rows)), _pairs(np.bincount(columns))
    expected = first_pairs * second_pairs / max(_pairs(np.array([rows.size])), 1.0)
    highest = (first_pairs + second_pairs) / 2
    if highest == expected:
        return 1.0
    return (together - expected) / (highest - expected)


def _pairs(counts: np.ndarray) -> float:
    counts = counts.astype(np.float64)
    return float((counts * (counts - 1) / 2).sum())


def patch_mask(mask: np.ndarray, grid_hw: tuple[int, int]) -> np.ndarray:
    """A mask of pixels -> mask of the patches that it covers by at least half.

    Args:
        mask: (H, W) bool; patches are stretched over it.
        grid_hw: (h, w).

    Returns:
        (h, w) bool.
    """
    size = (grid_hw[1], grid_hw[0])
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5


def measure_segments(
    segments: np.ndarray,
    foreground: np.ndarray | None,
    objects: np.ndarray,
    grid_hw: tuple[int, int] | None = None,
) -> SegmentMetrics:
    """All metrics of one image. Pixels without a label are ignored, except in boxes.

    Args:
        segments: (H, W) integers >= 0.
        foreground: (H, W) bool; ``None`` = "no object", an empty mask.
        objects: (H, W) integers: 0 background, 1, 2, ... objects, negative = not labelled.
        grid_hw: patches of the image; without it ``patch_iou`` is NaN.
    """
    labelled = objects >= 0
    mask = objects > 0
    if foreground is None:
        foreground = np.zeros(mask.shape, bool)
    patch_iou = np.nan
    if grid_hw is not None:
        patch_iou = mask_iou(patch_mask(foreground & labelled, grid_hw), patch_mask(mask, grid_hw))
    return SegmentMetrics(
        iou=mask_iou(foreground[labelled], mask[labelled]),
        patch_iou=patch_iou,
        best_iou=best_segment_iou(segments[labelled], mask[labelled]) if mask.any() else np.nan,
        corloc=_is_located(foreground, objects),
        ari=adjusted_rand_index(segments[labelled], objects[labelled]),
    )


def _is_located(foreground: np.ndarray, objects: np.ndarray) -> float:
    """Whether the foreground's box has an IoU of 0.5 or more with an object's; NaN: no object."""
    masks = [objects == label for label in np.unique(objects[objects > 0])]
    if not masks:
        return np.nan
    found, *boxes = mask_util.toBbox([encode(mask) for mask in (foreground, *masks)])
    return float(mask_util.iou(found[None], np.stack(boxes), [0] * len(boxes)).max() >= 0.5)
