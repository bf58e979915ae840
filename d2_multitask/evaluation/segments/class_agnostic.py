"""COCO's average recall without classes: how many objects are found, whatever they are called."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from d2_multitask.evaluation.coco_backends import as_coco
from d2_multitask.evaluation.ground_truth import CocoDict, mask_ground_truth

MAX_DETECTIONS = (1, 10, 100)


def class_agnostic_recall(
    ground_truth: CocoDict,
    predictions: Sequence[Mapping[str, Any]],
    metric: str = "segm",
    max_detections: Sequence[int] = MAX_DETECTIONS,
) -> dict[str, float]:
    """COCO's AR with ``useCats = 0``.

    Args:
        ground_truth: COCO's format, see `d2_multitask.evaluation.ground_truth`.
        predictions: COCO's results: ``image_id``, ``score``, and ``segmentation`` (RLE) or
            ``bbox``; a ``category_id`` does not count. They are not changed.
        metric: "segm" or "bbox".
        max_detections: most results counted an image, best scores first.

    Returns:
        ``AR@1`` and so on in 0-100: the share of objects that are found, mean over the IoU
        thresholds .50:.05:.95; NaN without any object.
    """
    counts = sorted(max_detections)
    if metric == "segm":
        ground_truth = mask_ground_truth(ground_truth)
    labels = as_coco(ground_truth)
    has_object = any(not a.get("iscrowd", 0) for a in ground_truth["annotations"])
    if not predictions or not has_object:
        nothing = 0.0 if has_object else float("nan")
        return {f"AR@{count}": nothing for count in counts}
    with contextlib.redirect_stdout(io.StringIO()):
        results = labels.loadRes([{"category_id": 1, **p} for p in predictions])
        evaluation = COCOeval(labels, results, metric)
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(counts)
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"][:, :, 0, :]  # (thresholds, 1, counts), objects of any size
    mean = np.where(recall > -1, recall, np.nan).mean(axis=(0, 1))
    return {f"AR@{count}": 100 * float(value) for count, value in zip(counts, mean, strict=True)}
