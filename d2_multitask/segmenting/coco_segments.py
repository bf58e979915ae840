"""Segments as COCO annotations with scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from d2_multitask.data.labels.masks import encode

SEGMENTS = "segments"
OBJECTS = "objects"
CATEGORY_NAMES = {SEGMENTS: "segment", OBJECTS: "object"}
MIN_AREA = 0.005  # share of the image


def segment_annotations(
    labels: np.ndarray, scores: Sequence[float], min_area: float = MIN_AREA
) -> list[dict[str, Any]]:
    """Every segment of an image, background or not.

    Args:
        labels: (H, W); segment s has ``scores[s]``.
        scores: one per segment.
        min_area: smaller ones are left out, share of the image.

    Returns:
        COCO annotations without ids.
    """
    masks = ((labels == number, float(scores[number])) for number in np.unique(labels))
    return [_annotation(m, score) for m, score in masks if m.sum() >= min_area * m.size]


def object_annotations(
    foreground: np.ndarray | None, score: float, min_area: float = MIN_AREA
) -> list[dict[str, Any]]:
    """The connected parts of the foreground.

    Args:
        foreground: (H, W) bool; ``None`` = no object.
        score: of the decision.
        min_area: smaller parts are left out, share of the image.

    Returns:
        COCO annotations without ids, largest first.
    """
    if foreground is None:
        return []
    count, parts = cv2.connectedComponents(foreground.astype(np.uint8), connectivity=8)
    masks = [parts == number for number in range(1, count)]
    masks = sorted((m for m in masks if m.sum() >= min_area * m.size), key=lambda m: -m.sum())
    return [_annotation(mask, float(score)) for mask in masks]


def _annotation(mask: np.ndarray, score: float) -> dict[str, Any]:
    rle = encode(mask)
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": mask_util.toBbox(rle).tolist(),
        "area": int(mask.sum()),
        "segmentation": rle,
        "score": round(score, 6),
    }


def coco_json(
    records: Iterable[Mapping[str, Any]], what: str, info: Mapping[str, Any], min_score: float
) -> dict[str, Any]:
    """The records of images as one COCO file.

    Args:
        records: of `OutputFolder`, with ``file_name``, ``height``, ``width`` and ``what``.
        what: `SEGMENTS` or `OBJECTS`.
        info: goes into the file.
        min_score: annotations below it are left out.

    Returns:
        COCO's dict; images without any annotation are in it as well.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, record in enumerate(records, start=1):
        images.append({"id": image_id, **{k: record[k] for k in ("file_name", "height", "width")}})
        for annotation in record[what]:
            if annotation["score"] >= min_score:
                ids = {"id": len(annotations) + 1, "image_id": image_id}
                annotations.append({**ids, **annotation})
    return {
        "info": dict(info),
        "categories": [{"id": 1, "name": CATEGORY_NAMES[what]}],
        "images": images,
        "annotations": annotations,
    }
