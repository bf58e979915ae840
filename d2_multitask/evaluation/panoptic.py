"""Panoptic quality (Kirillov et al., arXiv 1801.00868), as panopticapi counts it.

Letters: H x W pixels, C categories: the object classes, then the semantic classes of no object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from d2_multitask.data.labels.masks import decode, rle_or_report
from d2_multitask.data.labels.sem_seg import MASK_NOT_DECODED, SemSegLabel
from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.evaluation.base import LabelEvaluator
from d2_multitask.runtime.masks import semantic_ids

VOID, BACKGROUND = 0, 1  # ids of pixels that are not labelled, and of those of no category
_FIRST = 2


def panoptic_counts(
    labels: np.ndarray,
    label_categories: Sequence[int],
    predicted: np.ndarray,
    predicted_categories: Mapping[int, int],
    num_categories: int,
) -> np.ndarray:
    """Match the segments of one image.

    A predicted and a labelled segment of one category match if their IoU is above 0.5, pixels that
    are not labelled left out. A segment that lies mostly on such pixels is not counted.

    Args:
        labels: (H, W) integers: `VOID`, `BACKGROUND`, then a number a segment.
        label_categories: the category of each labelled segment, from number 2 on.
        predicted: (H, W) integers, 0 = no segment.
        predicted_categories: id of a predicted segment -> category.
        num_categories: C.

    Returns:
        (C, 4) float64: the sum of the matches' IoU, matches, predicted segments without a match,
        labelled ones without.
    """
    ids, inverse = np.unique(predicted, return_inverse=True)
    size = len(label_categories) + _FIRST
    cells = inverse.reshape(-1) * np.int64(size) + labels.reshape(-1)
    shared = np.bincount(cells, minlength=len(ids) * size).reshape(len(ids), size)
    found = np.array([predicted_categories.get(number, -1) for number in ids.tolist()])
    shared, found = shared[found >= 0], found[found >= 0]
    void, both, area = shared[:, VOID], shared[:, _FIRST:], shared.sum(1)
    known = np.bincount(labels.reshape(-1), minlength=size)[_FIRST:]
    expected = np.asarray(label_categories, np.int64)
    iou = both / np.maximum((area - void)[:, None] + known - both, 1)
    iou *= (found[:, None] == expected) & (iou > 0.5)  # at most one in a row and in a column
    counts = np.zeros((num_categories, 4))
    np.add.at(counts[:, 0], expected, iou.sum(0))
    np.add.at(counts[:, 1], expected, iou.any(0))
    np.add.at(counts[:, 2], found, ~iou.any(1) & (void * 2 <= area))
    np.add.at(counts[:, 3], expected, ~iou.any(0) & (known > 0))
    return counts


def panoptic_quality(counts: np.ndarray) -> dict[str, float]:
    """PQ, SQ and RQ, 0-100: means over the categories that are labelled or predicted.

    ``counts``: (C, 4), see `panoptic_counts`; NaN without any segment.
    """
    iou, matches, extra, missed = counts[counts[:, 1:].any(1)].T
    if not len(iou):
        return dict.fromkeys(("PQ", "SQ", "RQ"), float("nan"))
    weight = matches + extra / 2 + missed / 2
    qualities = {"PQ": iou / weight, "SQ": iou / np.maximum(matches, 1), "RQ": matches / weight}
    return {name: 100 * float(values.mean()) for name, values in qualities.items()}


class PanopticEvaluator(LabelEvaluator):
    """PQ of ``panoptic_seg`` on datasets with masks of objects and semantic maps.

    Objects are labelled by their masks, a smaller one before a larger one where they overlap; all
    else by the semantic map. Not labelled are its ignored pixels (crowds, for example) and those of
    an object class without an object's mask. Background is labelled, and no segment.
    """

    output_name = "panoptic_seg"
    task = "seg"

    def __init__(
        self,
        dataset_name: str,
        records: Sequence[dict[str, Any]],
        thing_classes: Sequence[str],
        stuff_classes: Sequence[str],
        *,
        distributed: bool = True,
    ) -> None:
        """As `LabelEvaluator`, with the names of the object classes and the semantic classes.

        Raises:
            ValueError: an object class is no semantic class.
        """
        self._sem_seg = SemSegLabel(len(stuff_classes))
        self._things, self._stuff = semantic_ids(thing_classes, stuff_classes)
        self._num_categories = len(self._things) + len(self._stuff)
        super().__init__(dataset_name, records, distributed=distributed)

    def metric_names(self) -> list[str]:
        """What `evaluate` will give, as ``TEST.BEST_METRIC`` can name it."""
        suffixes = ("", "_th", "_st") if self._stuff else ("",)
        return [f"{self.output_name}/{n}{s}" for n in ("PQ", "SQ", "RQ") for s in suffixes]

    def reset(self) -> None:
        """Forget the counts of an earlier round."""
        super().reset()
        self._counts = np.zeros((self._num_categories, 4))

    def labels(self, record: dict[str, Any]) -> tuple[np.ndarray, list[int]] | None:
        """Labels and their categories, see `panoptic_counts`; objects and map must be labelled."""
        classes = self._sem_seg.read(record) if "annotations" in record else None
        if classes is None:
            return None
        labels = np.full(classes.shape, BACKGROUND, np.int64)
        labels[(classes == self._sem_seg.ignore_value) | np.isin(classes, self._things)] = VOID
        categories: list[int] = []
        for place, class_id in enumerate(self._stuff, len(self._things)):
            labels[classes == class_id] = len(categories) + _FIRST
            categories.append(place)
        objects = [
            (decode(rle), annotation["category_id"])
            for annotation in record["annotations"]
            if annotation.get("segmentation") and not annotation.get("iscrowd")
            for rle in [self._rle(annotation, record, classes.shape)]
            if rle is not None
        ]
        for mask, category in sorted(objects, key=lambda pair: -np.count_nonzero(pair[0])):
            labels[mask.astype(bool)] = len(categories) + _FIRST
            categories.append(category)
        return labels, categories

    def _rle(self, annotation: Any, record: dict[str, Any], size: tuple[int, int]) -> Any:
        where = str(record.get("file_name"))
        return rle_or_report(
            annotation["segmentation"], *size, DATA_REPORT, where, kind=MASK_NOT_DECODED
        )

    def add(
        self,
        record: dict[str, Any],
        labels: tuple[np.ndarray, list[int]],
        output: dict[str, Any],
    ) -> None:
        """Count one image."""
        where = record.get("file_name")
        if self.output_name not in output:
            raise ValueError(
                f"{where}: the model's output has {sorted(output)}, expected 'panoptic_seg'. "
                "TEST.TASKS must have 'seg' and one of 'det', 'pose', or be empty"
            )
        ids, segments = output[self.output_name]
        if tuple(ids.shape) != labels[0].shape:
            raise ValueError(
                f"{where}: the model's 'panoptic_seg' has shape {tuple(ids.shape)}, expected "
                f"{labels[0].shape}"
            )
        categories = {segment["id"]: self._category(segment) for segment in segments}
        self._counts += panoptic_counts(
            *labels, ids.cpu().numpy(), categories, self._num_categories
        )

    def _category(self, segment: Mapping[str, Any]) -> int:
        number = segment["category_id"]
        return number if segment["isthing"] else len(self._things) + self._stuff.index(number)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed; ``None`` in all processes but the first.

        Returns:
            ``{"panoptic_seg": {"PQ": ...}}`` with ``SQ`` and ``RQ`` and, where there are both, the
            same of objects (``_th``) and of stuff (``_st``).
        """
        parts = self.gather([self._counts])
        if parts is None:
            return None
        counts = np.sum(parts, axis=0)
        results, things = panoptic_quality(counts), len(self._things)
        if self._stuff:
            for suffix, some in (("th", counts[:things]), ("st", counts[things:])):
                results |= {f"{k}_{suffix}": v for k, v in panoptic_quality(some).items()}
        return {self.output_name: results}
