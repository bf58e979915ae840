"""Confusion matrices of label maps, and the numbers of semantic segmentation from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def count_confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pixels by label and prediction.

    Args:
        labels: (H, W) ids; what is not below ``num_classes`` is not labelled.
        predicted: (H, W) ids in 0..num_classes - 1.
        num_classes: C.

    Returns:
        (C + 1, C) int64, rows are labels, the last row is what is not labelled.
    """
    rows = np.minimum(labels.reshape(-1), num_classes).astype(np.int64)
    cells = rows * num_classes + predicted.reshape(-1)
    counts = np.bincount(cells, minlength=(num_classes + 1) * num_classes)
    return counts.reshape(num_classes + 1, num_classes)


def intersection_over_union(confusion: np.ndarray) -> np.ndarray:
    """IoU of each class over all labelled pixels.

    Args:
        confusion: (C or more, C); rows beyond C are not labelled and do not count.

    Returns:
        (C,); NaN for classes that no pixel is labelled with.
    """
    num_classes = confusion.shape[1]
    return _iou(confusion[:num_classes])


def mean_iou_with_background(confusion: np.ndarray) -> float:
    """Mean IoU if what is not labelled were one more class, "background".

    The prediction never says background, so the IoU of that class is 0, and each prediction there
    is an error of the class that it names. (PASCAL-Context's "60 classes" for a network with 59.)

    Args:
        confusion: (C + 1, C).

    Returns:
        Mean over the classes that occur, background among them; NaN without any pixel.
    """
    square = np.concatenate([confusion, np.zeros((len(confusion), 1), confusion.dtype)], axis=1)
    return nan_mean(_iou(square))


def segmentation_metrics(confusion: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """``mIoU``, ``fwIoU``, ``mACC``, ``pACC`` and ``IoU-<name>``, in 0-100, as Detectron2 defines
    them: over all pixels of all images, means over the classes that are labelled somewhere.

    Args:
        confusion: (C + 1, C).
        names: of the C classes.
    """
    labelled = confusion[: len(names)]
    true_positive, pixels = np.diagonal(labelled).astype(float), labelled.sum(axis=1)
    iou = intersection_over_union(confusion)
    occurs = pixels > 0
    total = pixels.sum()
    metrics = {
        "mIoU": nan_mean(iou),
        "fwIoU": float((iou[occurs] * pixels[occurs]).sum() / total) if total else float("nan"),
        "mACC": nan_mean(true_positive[occurs] / pixels[occurs]),
        "pACC": float(true_positive.sum() / total) if total else float("nan"),
        **{f"IoU-{name}": float(value) for name, value in zip(names, iou, strict=True)},
    }
    return {name: 100 * value for name, value in metrics.items()}


def nan_mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN if that is nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _iou(square: np.ndarray) -> np.ndarray:
    """(C, C) -> (C,); NaN for classes without a labelled pixel."""
    intersection = np.diagonal(square).astype(float)
    labelled = square.sum(axis=1)
    union = labelled + square.sum(axis=0) - intersection
    iou = intersection / np.maximum(union, 1)
    return np.where(labelled > 0, iou, np.nan)
