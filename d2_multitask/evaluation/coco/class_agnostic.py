"""COCO's average recall and precision without classes: objects may be found as any class."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from pycocotools.cocoeval import COCOeval

from d2_multitask.evaluation.base import gathered
from d2_multitask.evaluation.coco.backends import as_coco
from d2_multitask.evaluation.coco.labels import CocoDict, coco_ground_truth, mask_ground_truth
from d2_multitask.evaluation.coco.predictions import coco_results

MAX_DETECTIONS = (1, 10, 100)
_RECALLS = [f"AR@{count}" for count in MAX_DETECTIONS]


class ClassAgnosticEvaluator(DatasetEvaluator):
    """Average recall of a detector whose classes may differ from those of the dataset.

    Results are ``{"bbox_class_agnostic": {"AR@1": ...}, "segm_class_agnostic": {...}}`` in 0-100.
    """

    def __init__(
        self,
        dataset_name: str,
        metrics: Sequence[str] = ("bbox",),
        *,
        records: Sequence[dict[str, Any]] | None = None,
        distributed: bool = True,
    ) -> None:
        """
        Args:
            dataset_name: registered name.
            metrics: some of "bbox" and "segm".
            records: the dataset's dicts, if they are loaded already.
            distributed: gather predictions from all processes.

        Raises:
            ValueError: the labels cannot be read.
        """
        self._ground_truth = coco_ground_truth(dataset_name, records)
        self._metrics = tuple(metrics)
        self._distributed = distributed
        self.reset()

    def metric_names(self) -> list[str]:
        """What `evaluate` will give, as ``TEST.BEST_METRIC`` can name it."""
        return [f"{metric}_class_agnostic/{n}" for metric in self._metrics for n in _RECALLS]

    def reset(self) -> None:
        """Forget the predictions of an earlier round."""
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the predictions of a few images.

        Args:
            inputs: what the model was called with; ``image_id`` is used.
            outputs: ``{"instances": Instances}`` each, in pixels of the original image.
        """
        for input_, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._predictions += coco_results(instances, input_["image_id"])

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed; ``None`` in all processes but the first."""
        predictions = gathered(self._predictions, self._distributed)
        if predictions is None:
            return None
        labels = {"annotations": [], **self._ground_truth}
        return {
            f"{metric}_class_agnostic": class_agnostic_recall(labels, predictions, metric)
            for metric in self._metrics
        }


def class_agnostic_recall(
    ground_truth: CocoDict, predictions: Sequence[Mapping[str, Any]], metric: str = "segm"
) -> dict[str, float]:
    """The recalls of `class_agnostic_scores` alone."""
    scores = class_agnostic_scores(ground_truth, predictions, metric)
    return {name: scores[name] for name in _RECALLS}


def class_agnostic_scores(
    ground_truth: CocoDict, predictions: Sequence[Mapping[str, Any]], metric: str = "segm"
) -> dict[str, float]:
    """COCO's AR and AP with ``useCats = 0``.

    Args:
        ground_truth: COCO's format, see `d2_multitask.evaluation.coco.labels`.
        predictions: COCO's results: ``image_id``, ``score``, and ``segmentation`` (RLE) or
            ``bbox``; those without it and ``category_id`` are ignored. They are not changed.
        metric: "segm" or "bbox".

    Returns:
        ``AR@1``, ``AR@10`` and ``AR@100`` in 0-100: the share of objects that are found among so
        many predictions per image, mean over the IoU thresholds .50:.05:.95. ``AP`` and ``AP50``,
        of 100 predictions per image. NaN without any object.
    """
    if metric == "segm":
        ground_truth = mask_ground_truth(ground_truth)
    # pycocotools leaves out predictions of a class that the labels do not have, even without
    # classes, and would take a prediction's box for its mask.
    category = ground_truth["categories"][0]["id"] if ground_truth["categories"] else 0
    field = {"bbox": "bbox", "segm": "segmentation"}[metric]
    found = [
        {**{key: p[key] for key in ("image_id", "score", field)}, "category_id": category}
        for p in predictions
        if field in p
    ]
    has_object = any(not a.get("iscrowd", 0) for a in ground_truth["annotations"])
    if not found or not has_object:
        return dict.fromkeys([*_RECALLS, "AP", "AP50"], 0.0 if has_object else float("nan"))
    with contextlib.redirect_stdout(io.StringIO()):
        labels = as_coco(ground_truth)
        evaluation = COCOeval(labels, labels.loadRes(found), metric)
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(MAX_DETECTIONS)
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"][:, :, 0, :]  # (thresholds, 1, counts), objects of any size
    mean = 100 * np.where(recall > -1, recall, np.nan).mean(axis=(0, 1))
    precision = 100 * evaluation.eval["precision"][:, :, 0, 0, -1].mean(axis=1)  # (thresholds,)
    precisions = {"AP": float(precision.mean()), "AP50": float(precision[0])}
    return {**dict(zip(_RECALLS, mean.tolist(), strict=True)), **precisions}
