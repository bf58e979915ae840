"""The official evaluation of image classification, for comparison with old numbers."""

from __future__ import annotations

import numpy as np


def official_mean_ap(scores: np.ndarray, present: np.ndarray) -> float:
    """Mean AP as ``DetailEvalCls`` computes it.

    It differs from `d2_multitask.evaluation.dense.classification` in two points: images
    of one score count one by one, in the order of the images (the official order among them is
    whatever NumPy's quicksort leaves), and a class that no image shows counts with AP 0.

    Args:
        scores: (N, C).
        present: (N, C) bool.

    Returns:
        In 0-1.
    """
    num_images, num_classes = scores.shape
    total = 0.0
    for score, shown in zip(scores.T, present.T, strict=True):
        if not shown.any():
            continue
        hits = np.cumsum(shown[np.argsort(-score, kind="stable")])
        precision = hits / np.arange(1, num_images + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        total += float((np.diff(hits, prepend=0) * envelope).sum() / shown.sum())
    return total / num_classes
