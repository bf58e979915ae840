"""Metrics of segments that were found without labels, as a Detectron2 evaluator, and its masks.

Letters: H x W pixels, h x w patches. Numbers of single images are in [0, 1].
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation import DatasetEvaluator

from d2_multitask.data.datasets.folders import images_by_stem, stem_of
from d2_multitask.data.io import ImageReadError, read_label_map
from d2_multitask.data.labels.foreground import check_size
from d2_multitask.data.labels.masks import encode
from d2_multitask.evaluation.base import gathered
from d2_multitask.evaluation.coco.class_agnostic import class_agnostic_recall
from d2_multitask.evaluation.regions import best_overlaps, shared_pixels

_NAMES = {
    "iou": "IoU",
    "patch_iou": "IoU-patches",
    "best_iou": "IoU-best-segment",
    "corloc": "CorLoc",
    "ari": "ARI",
}


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
    return float(best_overlaps(shared_pixels(segments, mask.astype(np.int64)))[1:].max(initial=0))


def adjusted_rand_index(first: np.ndarray, second: np.ndarray) -> float:
    """Agreement of two partitions, corrected for chance (Hubert and Arabie 1985, equation 5).

    Args:
        first: integers >= 0, any shape.
        second: integers >= 0, same shape.

    Returns:
        1 for the same partition, about 0 for unrelated ones, possibly negative. 1 if both have a
        single segment, or both a segment per element.
    """
    shared = shared_pixels(first, second)
    together = _pairs(shared)
    first_pairs, second_pairs = _pairs(shared.sum(axis=1)), _pairs(shared.sum(axis=0))
    expected = first_pairs * second_pairs / max(_pairs(shared.sum()), 1.0)
    highest = (first_pairs + second_pairs) / 2
    if highest == expected:
        return 1.0
    return (together - expected) / (highest - expected)


def _pairs(counts: np.ndarray) -> float:
    counts = counts.astype(np.float64)
    return float((counts * (counts - 1) / 2).sum())


def patch_mask(mask: np.ndarray, grid_hw: tuple[int, int]) -> np.ndarray:
    """A mask of pixels -> mask of the patches that it covers by at least half.

    ``mask`` is (H, W) bool, and the patches (h, w) are stretched over it; (h, w) bool.
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
        ari=adjusted_rand_index(segments[labelled], objects[labelled])
        if labelled.any()
        else np.nan,
    )


def _is_located(foreground: np.ndarray, objects: np.ndarray) -> float:
    """Whether the foreground's box has an IoU of 0.5 or more with an object's; NaN: no object."""
    masks = [objects == label for label in np.unique(objects[objects > 0])]
    if not masks:
        return np.nan
    found, *boxes = mask_util.toBbox([encode(mask) for mask in (foreground, *masks)])
    return float(mask_util.iou(found[None], np.stack(boxes), [0] * len(boxes)).max() >= 0.5)


class _Image(NamedTuple):
    image: dict[str, Any]  # as in COCO's "images"
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
        """``distributed``: gather the images of all processes."""
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget the images of an earlier round."""
        self._images: list[_Image] = []

    @property
    def per_image(self) -> dict[Any, SegmentMetrics]:
        """Image id -> its `SegmentMetrics`, for standard errors and paired differences."""
        return {image.image["id"]: image.metrics for image in self._images}

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
            image = {"id": image_id, "height": objects.shape[0], "width": objects.shape[1]}
            no_object = foreground is None
            self._images.append(_Image(image, metrics, no_object, annotations, results))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed; ``None`` in all processes but the first."""
        images = gathered(self._images, self._distributed)
        if images is None:
            return None
        self._images = images
        scores: dict[str, float] = {}
        for field, name in _NAMES.items():
            values = np.array([getattr(i.metrics, field) for i in self._images], np.float64)
            known = values[~np.isnan(values)]
            scores[name] = 100 * float(known.mean()) if len(known) else float("nan")
        objects = itertools.chain.from_iterable(image.annotations for image in self._images)
        ground_truth = {
            "images": [image.image for image in self._images],
            "categories": [{"id": 1, "name": "object"}],
            "annotations": [{**a, "id": n} for n, a in enumerate(objects, start=1)],
        }
        results = [result for image in self._images for result in image.results]
        scores.update(class_agnostic_recall(ground_truth, results))
        scores["num_images"] = len(self._images)
        scores["num_no_object"] = sum(image.no_object for image in self._images)
        return {"segments": scores}


def segment_results(segments: np.ndarray, scores: Any, image_id: Any) -> list[dict[str, Any]]:
    """Segments (H, W), of which number s has ``scores[s]``, as COCO's results."""
    return [
        mask_result(segments == number, image_id, float(scores[number]))
        for number in np.unique(segments)
    ]


def label_annotations(objects: np.ndarray, image_id: Any) -> list[dict[str, Any]]:
    """A label map as COCO's annotations; pixels without a label are a region to ignore.

    ``objects`` is (H, W): 0 background, 1, 2, ... objects, negative = not labelled.
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


def mask_files(mask_root: str | Path, names: Sequence[str]) -> dict[str, Path]:
    """Find the masks of images.

    Args:
        mask_root: the folder.
        names: paths of the images in their own folder, such as ``birds/1.jpg``, whose mask is
            ``birds/1`` with the extension of any image format.

    Returns:
        Name -> file, in the order of ``names``.

    Raises:
        ValueError: the folder does not exist, or masks are missing; names some of them.
    """
    root = Path(mask_root)
    if not root.is_dir():
        raise ValueError(f"{root}: found no folder, expected a folder of masks")
    files = images_by_stem(root)
    found = {name: files.get(stem_of(name)) for name in names}
    missing = [name for name, file in found.items() if file is None]
    if missing:
        raise ValueError(
            f"{root}: found no mask for {len(missing)} of {len(names)} images (such as "
            f"{', '.join(missing[:3])}), expected files of the same name with any extension"
        )
    return {name: file for name, file in found.items() if file is not None}


def read_object_mask(file: str | Path, size_hw: tuple[int, int] | None = None) -> np.ndarray:
    """Read a mask: the object has 1 in masks of 0 and 1, else 128 to 255 (soft borders are cut).

    Args:
        file: an image of one channel, of three equal ones, or with the mask in alpha.
        size_hw: (h, w) of the image that it belongs to; ``None`` = not known.

    Returns:
        (H, W) bool.

    Raises:
        ImageReadError: the file is missing or broken, has another size, or holds other numbers,
            such as those of several classes; names it.
    """
    values = read_label_map(str(file), grey_colors=True, expected_size=size_hw)
    if size_hw is not None:
        check_size(str(file), values, size_hw)
    if values.max(initial=0) > 255:  # 16 bits
        values = values // 257
    mask = values >= (1 if values.max(initial=0) <= 1 else 128)
    dark = (values != 0) & ~mask
    if np.count_nonzero(dark) > np.count_nonzero(mask):
        raise ImageReadError(
            f"{file}: found the numbers {np.unique(values)[:8].tolist()}, expected 0 and 1, or 0 "
            "and 255 with soft borders at most; save a mask of the object"
        )
    return mask
