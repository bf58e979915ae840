"""What the answers of a method are worth, and the autoencoder itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from d2_multitask.evaluation.segments import (
    SegmentMetrics,
    class_agnostic_recall,
    mask_iou,
    mask_result,
    measure_segments,
    patch_mask,
    segment_results,
)
from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.patch_graph import Relation, graph_from_relation
from d2_multitask.patch_graph.refine import refine_labels, stretch_labels
from d2_multitask.patch_graph.segmenter import segment_scores
from studies.relations.divisions import Answer

# Pixels of the longer side at which pixels are compared: edges matter, JPEG noise does not.
EVALUATION_SIDE = 256
# Of the foreground among COCO's results: above all segments, whose scores are at most 1.
FOREGROUND_SCORE = 2.0


def coherence(relation: Relation, labels: np.ndarray) -> np.ndarray:
    """(C,) scores of the segments (h, w): share of their edges' weight that stays inside."""
    return segment_scores(graph_from_relation(relation), labels)


def score_answer(
    answer: Answer, scores: np.ndarray, pixels: np.ndarray, mask: np.ndarray
) -> tuple[SegmentMetrics, list[dict[str, Any]]]:
    """Metrics and COCO results of one method; its edges follow those of the image."""
    size_hw = mask.shape
    segments = stretch_labels(answer.labels, size_hw)
    found = refine_labels(answer.foreground.astype(np.int64), pixels) == 1
    metrics = measure_segments(segments, found, mask.astype(np.int64))
    grid_hw = answer.labels.shape
    metrics = metrics._replace(patch_iou=mask_iou(answer.foreground, patch_mask(mask, grid_hw)))
    results = segment_results(segments, scores, "")
    if found.any():
        results.append(mask_result(found, "", FOREGROUND_SCORE))
    return metrics, results


def shrunk(pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (H, W, 3) and mask (H, W) at `EVALUATION_SIDE`, if they are larger."""
    height, width = mask.shape
    scale = EVALUATION_SIDE / max(height, width)
    if scale >= 1:
        return pixels, mask
    size = (round(width * scale), round(height * scale))
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), small


@torch.no_grad()
def reconstruction_errors(model: MaskedAutoencoder, image: Tensor, name: str) -> dict[str, float]:
    """How good the autoencoder is on an image, with the masks of its evaluation.

    Args:
        model: the autoencoder.
        image: (3, H, W), normalised.
        name: the file's, which decides the mask.

    Returns:
        ``reconstruction_error`` and ``error_of_mean_color``, means over the removed patches.
    """
    pixels = image * model.pixel_std + model.pixel_mean
    found = model.inference({"image": pixels, "file_name": name})
    removed = found["patch_mask"]
    return {
        "reconstruction_error": float(found["patch_error"][removed].mean()),
        "error_of_mean_color": float(found["patch_variance"][removed].mean()),
    }


def average_recalls(
    records: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Method -> COCO's class-agnostic AR of its segments and foregrounds, in 0-100.

    Args:
        records: of `RelationStudy.report`.
        names: of the methods.
    """
    numbered = list(enumerate(records, start=1))
    objects = [{**a, "image_id": n} for n, record in numbered for a in record["objects"]]
    sizes = [dict(zip(("height", "width"), record["size"], strict=True)) for record in records]
    ground_truth = {
        "images": [{"id": n, **size} for n, size in enumerate(sizes, start=1)],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [{**a, "id": n} for n, a in enumerate(objects, start=1)],
    }
    return {
        name: class_agnostic_recall(
            ground_truth,
            [{**r, "image_id": n} for n, record in numbered for r in record["results"][name]],
        )
        for name in names
    }
