"""Segments of many images against their labels, as a Detectron2 evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from d2_multitask.data.labels.masks import encode
from d2_multitask.evaluation.coco.class_agnostic import class_agnostic_recall
from d2_multitask.evaluation.segments.metrics import SegmentMetrics, mask_box, measure_segments

_NAMES = {
    "iou": "IoU",
    "patch_iou": "IoU-patches",
    "best_iou": "IoU-best-segment",
    "corloc": "CorLoc",
    "ari": "ARI",
}


class SegmentsEvaluator(DatasetEvaluator):
    """Means over images, and COCO's average recall over objects.

    Results are ``{"segments": {...}}`` in 0-100: ``IoU``, ``IoU-patches``, ``IoU-best-segment``,
    ``CorLoc`` and ``ARI`` as in `SegmentMetrics`; ``AR@1``, ``AR@10``, ``AR@100``, class-agnostic,
    of the segments and the foreground together; ``num_images``; ``num_no_object``, images where
    the answer was "no object".

    Attributes:
        per_image: image id -> its `SegmentMetrics`, for standard errors and paired differences.
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
        self.per_image: dict[Any, SegmentMetrics] = {}
        self._no_object: list[Any] = []
        self._objects: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        self._sizes: list[tuple[Any, int, int]] = []

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
            segments = np.asarray(output["segments"])
            foreground = output.get("foreground")
            _check(image_id, objects, segments, output["scores"], foreground)
            self.per_image[image_id] = measure_segments(
                segments, foreground, objects, output.get("grid_hw")
            )
            if foreground is None:
                self._no_object.append(image_id)
            self._sizes.append((image_id, *objects.shape))
            self._objects += label_annotations(objects, image_id)
            self._results += segment_results(segments, output["scores"], image_id)
            if foreground is not None and foreground.any():
                score = output.get("foreground_score", float(np.max(output["scores"])) + 1)
                self._results.append(mask_result(foreground, image_id, score))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed; ``None`` in all processes but the first."""
        if self._distributed and comm.get_world_size() > 1:
            self._gather()
            if not comm.is_main_process():
                return None
        scores: dict[str, float] = {}
        for field, name in _NAMES.items():
            values = np.array([getattr(m, field) for m in self.per_image.values()], np.float64)
            known = values[~np.isnan(values)]
            scores[name] = 100 * float(known.mean()) if len(known) else float("nan")
        ground_truth = {
            "images": [{"id": i, "height": h, "width": w} for i, h, w in self._sizes],
            "categories": [{"id": 1, "name": "object"}],
            "annotations": [{**a, "id": n} for n, a in enumerate(self._objects, start=1)],
        }
        scores.update(class_agnostic_recall(ground_truth, self._results))
        scores["num_images"] = len(self.per_image)
        scores["num_no_object"] = len(self._no_object)
        return {"segments": scores}

    def _gather(self) -> None:
        mine = (self.per_image, self._no_object, self._objects, self._results, self._sizes)
        gathered = comm.gather(mine)
        if comm.is_main_process():
            self.reset()
            for per_image, no_object, objects, results, sizes in gathered:
                self.per_image.update(per_image)
                self._no_object += no_object
                self._objects += objects
                self._results += results
                self._sizes += sizes


def segment_results(segments: np.ndarray, scores: Any, image_id: Any) -> list[dict[str, Any]]:
    """Segments as COCO's results: ``image_id``, ``category_id``, ``segmentation``, ``score``.

    Args:
        segments: (H, W) integers; number s has ``scores[s]``.
        scores: one a segment.
        image_id: of the image.
    """
    return [
        mask_result(segments == number, image_id, float(scores[number]))
        for number in np.unique(segments)
    ]


def label_annotations(objects: np.ndarray, image_id: Any) -> list[dict[str, Any]]:
    """A label map as COCO's annotations; what is not labelled is a region to ignore.

    Args:
        objects: (H, W), 0 background, 1, 2, ... objects, negative = not labelled.
        image_id: of the image.
    """
    annotations = []
    for label in np.unique(objects[objects != 0]):
        mask = objects == label
        x0, y0, x1, y1 = mask_box(mask)
        annotations.append(
            {
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": int(label < 0),
                "area": int(mask.sum()),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": encode(mask),
            }
        )
    return annotations


def mask_result(mask: np.ndarray, image_id: Any, score: float) -> dict[str, Any]:
    """A mask (H, W) bool as one of COCO's results."""
    return {
        "image_id": image_id,
        "category_id": 1,
        "segmentation": encode(mask),
        "score": float(score),
    }


def _check(
    image_id: Any, objects: np.ndarray, segments: np.ndarray, scores: Any, foreground: Any
) -> None:
    shapes = {"segments": segments.shape}
    if foreground is not None:
        shapes["foreground"] = foreground.shape
    for name, shape in shapes.items():
        if shape != objects.shape:
            raise ValueError(
                f"Image {image_id!r}: {name}: found shape {shape}, expected {objects.shape} as the "
                "label map"
            )
    if segments.min() < 0 or segments.max() >= len(scores):
        raise ValueError(
            f"Image {image_id!r}: segments: found numbers {segments.min()}..{segments.max()}, "
            f"expected 0..{len(scores) - 1}, one for each score"
        )
