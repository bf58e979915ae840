"""How alike objects of two frames are: overlap of boxes, and COCO's OKS of keypoints."""

from __future__ import annotations

import numpy as np


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, m) intersection over union of boxes (n, 4) and (m, 4), xyxy."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    areas = [box_areas(boxes) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1] - shared, 1e-9)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """(n,) of boxes (n, 4) xyxy."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def keypoint_similarity(
    first: np.ndarray, second: np.ndarray, areas: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """Object keypoint similarity, each keypoint weighed by both confidences.

    COCO counts the keypoints that are labelled; here nothing is labelled, so a keypoint counts as
    much as the less certain of its two predictions is worth.

    Args:
        first: (n, K, 3) x, y, confidence, pixels.
        second: (m, K, 3).
        areas: (n,) of the boxes of ``first``, square pixels.
        sigmas: (K,) COCO's spread of each keypoint.

    Returns:
        (n, m), 0 to 1; 0 where no keypoint has a confidence in both.
    """
    squared = ((first[:, None, :, :2] - second[None, :, :, :2]) ** 2).sum(-1)
    spread = 2 * areas[:, None] * (2 * sigmas) ** 2
    weights = np.minimum(first[:, None, :, 2], second[None, :, :, 2]).clip(0)
    near = np.exp(-squared / np.maximum(spread[:, None], 1e-9))
    return (near * weights).sum(-1) / np.maximum(weights.sum(-1), 1e-9)
