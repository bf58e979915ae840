"""Segments of many images against their labels, as a Detectron2 evaluator."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from d2_multitask.data.labels.masks import encode
from d2_multitask.evaluation.coco.class_agnostic import class_agnostic_recall
from d2_multitask.evaluation.segments.metrics import SegmentMetrics, measure_segments

_NAMES = {
    "iou": "IoU",
    "patch_iou": "IoU-patches",
    "best_iou": "IoU-best-segment",
    "corloc": "CorLoc",
    "ari": "ARI",
}


class _Image(NamedTuple):
    image_id: Any
    size_hw: tuple[int, int]
    metrics: SegmentMetrics
    no_object: bool
    annotations: list[dict[str, Any]]
    results: list[dict[str, Any]]


class SegmentsEvaluator(DatasetEvaluator):
    """Means over images, and COCO's average recall over objects.

    Results are ``{"segments": {...}}`` in 0-100: ``IoU``, ``IoU-patches``, ``IoU-best-segment``,
    ``CorLoc`` and ``ARI`` as in `SegmentMetrics`; ``AR@1``, ``AR@10``, ``AR@100``, class-agnostic,
    of the segments and the foreground together; ``num_images``; ``num_no_object``, images whose
    prediction is "no object".
    """

    def __init__(self, distributed: bool = True) -> None:
        """
        Args:
            distributed: gather the images of all processes.
        """
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget the images of an earlier round."""
        self._images: list[_Image] = []

    @property
    def per_image(self) -> dict[Any, SegmentMetrics]:
        """Image id -> its `SegmentMetrics`, for standard errors and paired differences."""
        return {image.image_id: image.metrics for image in self._images}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add a few images.

        Args:
            inputs: ``image_id``, and ``objects`` (H, W), 0 background, 1, 2, ... objects, negative
                = not labelled.
            outputs: ``segments`` (H, W) integers >= 0; ``scores`` (number of segments,), best
                first in the recall; optionally ``foreground`` (H, W) bool or ``None``,
                ``foreground_score``, by default above all segments, and ``grid_hw``, the patches.

        Raises:
            ValueError: shapes or numbers do not fit.
        """
        for input_, output in zip(inputs, outputs, strict=True):
            image_id, objects = input_["image_id"], np.asarray(input_["objects"])
            segments, scores = np.asarray(output["segments"]), output["scores"]
            foreground = output.get("foreground")
            _check(image_id, objects, segments, scores, foreground)
            results = segment_results(segments, scores, image_id)
            if foreground is not None and foreground.any():
                score = output.get("foreground_score", float(np.max(scores)) + 1)
                results.append(mask_result(foreground, image_id, score))
            metrics = measure_segments(segments, foreground, objects, output.get("grid_hw"))
            annotations = label_annotations(objects, image_id)
            no_object = foreground is None
            self._images.append(
                _Image(image_id, objects.shape, metrics, no_object, annotations, results)
            )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed; ``None`` in all processes but the first."""
        if self._distributed:
            gathered = comm.gather(self._images)
            if not comm.is_main_process():
                return None
            self._images = list(itertools.chain.from_iterable(gathered))
        scores: dict[str, float] = {}
        for field, name in _NAMES.items():
            values = np.array([getattr(i.metrics, field) for i in self._images], np.float64)
            known = values[~np.isnan(values)]
            scores[name] = 100 * float(known.mean()) if len(known) else float("nan")
        objects = itertools.chain.from_iterable(image.annotations for image in self._images)
        ground_truth = {
            "images": [
                {"id": i.image_id, "height": i.size_hw[0], "width": i.size_hw[1]}
                for i in self._images
            ],
            "categories": [{"id": 1, "name": "object"}],
            "annotations": [{**a, "id": n} for n, a in enumerate(objects, start=1)],
        }
        results = [result for image in self._images for result in image.results]
        scores.update(class_agnostic_recall(ground_truth, results))
        scores["num_images"] = len(self._images)
        scores["num_no_object"] = sum(image.no_object for image in self._images)
        return {"segments": scores}


def segment_results(segments: np.ndarray, scores: Any, image_id: Any) -> list[dict[str, Any]]:
    """Segments as COCO's results: ``image_id``, ``category_id``, ``segmentation``, ``score``.

    Args:
        segments: (H, W) integers; number s has ``scores[s]``.
        scores: one per segment.
        image_id: of the image.
    """
    return [
        mask_result(segments == number, image_id, float(scores[number]))
        for number in np.unique(segments)
    ]


def label_annotations(objects: np.ndarray, image_id: Any) -> list[dict[str, Any]]:
    """A label map as COCO's annotations; pixels without a label are a region to ignore.

    Args:
        objects: (H, W), 0 background, 1, 2, ... objects, negative = not labelled.
        image_id: of the image.
    """
    annotations = []
    for label in np.unique(objects[objects != 0]):
        rle = encode(objects == label)
        annotations.append(
            {
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": int(label < 0),
                "area": int(mask_util.area(rle)),
                "bbox": mask_util.toBbox(rle).tolist(),
                "segmentation": rle,
            }
        )
    return annotations


def mask_result(mask: np.ndarray, image_id: Any, score: float) -> dict[str, Any]:
    """A mask (H, W) bool as one of COCO's results."""
    fields = {"image_id": image_id, "category_id": 1}
    return {**fields, "segmentation": encode(mask), "score": float(score)}


def _check(
    image_id: Any, objects: np.ndarray, segments: np.ndarray, scores: Any, foreground: Any
) -> None:
    for name, array in (("segments", segments), ("foreground", foreground)):
        if array is not None and array.shape != objects.shape:
            raise ValueError(
                f"Image {image_id!r}: {name}: found shape {array.shape}, expected {objects.shape} "
                "as the label map"
            )
    if segments.min() < 0 or segments.max() >= len(scores):
        raise ValueError(
            f"Image {image_id!r}: segments: found numbers {segments.min()}..{segments.max()}, "
            f"expected 0..{len(scores) - 1}, one for each score"
        )
