"""Image classification: average precision, as PASCAL VOC 2010 defines it; accuracy of one class."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from d2_multitask.data.labels.sem_seg import ImageLabels
from d2_multitask.evaluation.base import LabelEvaluator
from d2_multitask.evaluation.legacy import official_mean_ap

logger = logging.getLogger(__name__)


def voc_average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """Area under the interpolated precision-recall curve, all points (VOC 2010 and later).

    Images with equal scores are one point of the curve, so their order does not matter.

    Args:
        scores: (n,) higher = more certain.
        present: (n,) bool, the class is in the image.

    Returns:
        In 0-1; NaN if no image shows the class.
    """
    num_present = int(present.sum())
    if not num_present:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(present[order])[last_of_score]
    precision = hits / (np.flatnonzero(last_of_score) + 1)
    recall = hits / num_present
    # The highest precision at this or any higher recall.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def top_k_accuracy(scores: np.ndarray, classes: np.ndarray, k: int) -> float:
    """Share of the images whose class is among the k best; equal scores count as better ones.

    Args:
        scores: (n, C).
        classes: (n,) ids.
        k: from 1.

    Returns:
        In 0-1; NaN without images.
    """
    if not len(scores):
        return float("nan")
    own = scores[np.arange(len(scores)), classes][:, None]
    return float(((scores >= own).sum(1) <= k).mean())


class ClassificationEvaluator(LabelEvaluator):
    """AP of each class over the images, and their mean over the classes that occur.

    Where each image shows one class, ``single_label``: instead of these ``top1`` and ``top5``.

    Labelled images without a prediction get score 0, with a warning, as in the official evaluation.
    """

    output_name = "image_labels"
    task = "classification"
    metrics = ("mAP", "AP-")

    def __init__(
        self,
        dataset_name: str,
        records: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        *,
        distributed: bool = True,
        legacy: bool = False,
        single_label: bool = False,
    ) -> None:
        """As `LabelEvaluator`, for C classes, whose scores the output must have.

        ``legacy``: also give the official code's number.
        """
        self._class_names = list(class_names)
        self._single_label = single_label
        if single_label:
            self.metrics = ("top1", "top5")
        self._legacy = legacy
        super().__init__(dataset_name, records, distributed=distributed)

    def reset(self) -> None:
        """Forget the scores of an earlier round."""
        super().reset()
        self._scores: list[tuple[Any, np.ndarray]] = []

    def labels(self, record: dict[str, Any]) -> np.ndarray | None:
        """(C,) int64, 1 = present."""
        return ImageLabels(len(self._class_names)).read(record)

    def add(self, record: dict[str, Any], labels: np.ndarray, output: dict[str, Any]) -> None:
        """Keep the scores (C,) of one image."""
        scores = self.prediction(record, output, labels.shape).float().cpu().numpy()
        finite = np.isfinite(scores)
        self._num_not_finite += not finite.all()
        self._scores.append((record["image_id"], np.where(finite, scores, 0)))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``mAP`` and ``AP-<class>`` in 0-100; NaN for a class that no image shows.

        Raises:
            ValueError: several classes in an image, of which there should be one.
        """
        gathered = self.gather(self._scores)
        if gathered is None:
            return None
        labels = {i: self.labels(record) for i, record in self._records.items()}
        labels = {i: label for i, label in labels.items() if label is not None}
        known = dict(gathered)
        if len(known) < len(labels):
            logger.warning(
                f"{len(labels) - len(known)} labelled images of {self._dataset_name!r} have no "
                "predicted classes: their scores are 0."
            )
        num_classes = len(self._class_names)
        scores = np.array([known.get(i, np.zeros(num_classes)) for i in labels])
        scores = scores.reshape(-1, num_classes)
        present = np.array(list(labels.values())).reshape(-1, num_classes) > 0
        if self._single_label:
            return {self.output_name: self._accuracy(scores, present)}
        columns = zip(self._class_names, scores.T, present.T, strict=True)
        ap = {name: voc_average_precision(s, p) for name, s, p in columns}
        occurring = [value for value in ap.values() if not math.isnan(value)]
        mean = 100 * float(np.mean(occurring)) if occurring else math.nan
        per_class = {f"AP-{name}": 100 * value for name, value in ap.items()}
        results = {self.output_name: {"mAP": mean, **per_class}}
        if self._legacy:
            results[f"{self.output_name}-legacy"] = {"mAP": 100 * official_mean_ap(scores, present)}
        return results

    def _accuracy(self, scores: np.ndarray, present: np.ndarray) -> dict[str, float]:
        if (present.sum(1) != 1).any():
            raise ValueError(
                f"Dataset {self._dataset_name!r}: image_labels: found an image with "
                f"{int(present.sum(1).max())} classes, expected one in each; set "
                "MODEL.CLASSIFICATION_HEAD.SINGLE_LABEL to False"
            )
        classes = present.argmax(1)
        return {f"top{k}": 100 * top_k_accuracy(scores, classes, k) for k in (1, 5)}
