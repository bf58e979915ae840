"""Average precision of image classification, as PASCAL VOC 2010 defines it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from d2_multitask.data.labels.maps import image_label_vector
from d2_multitask.evaluation.dense.confusion import nan_mean
from d2_multitask.evaluation.dense.label_evaluator import LabelEvaluator
from d2_multitask.evaluation.dense.legacy_labels import official_mean_ap

logger = logging.getLogger(__name__)


def voc_average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """Area under the interpolated precision-recall curve, all points (VOC 2010 and later).

    Images of one score are taken together, so the result does not depend on their order; a score
    that says nothing gets the share of images that show the class.

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


class ClassificationEvaluator(LabelEvaluator):
    """AP of each class over the images, and their mean over the classes that occur.

    Images that the model was not asked for get score 0, as in the official evaluation, with a
    warning.
    """

    output_name = "image_labels"
    task = "classification"

    def __init__(
        self,
        dataset_name: str,
        records: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        *,
        distributed: bool = True,
        legacy: bool = False,
    ) -> None:
        """
        Args:
            dataset_name: registered name, for messages.
            records: the data set's dicts.
            class_names: C names; the output must have C scores.
            distributed: gather the scores of all processes.
            legacy: also give the official code's number.
        """
        self._class_names = list(class_names)
        self._legacy = legacy
        super().__init__(dataset_name, records, distributed=distributed)

    def reset(self) -> None:
        """Forget the scores of an earlier round."""
        super().reset()
        self._scores: list[tuple[Any, np.ndarray]] = []

    def labels(self, record: dict[str, Any]) -> np.ndarray | None:
        """(C,) int64, 1 = present."""
        return image_label_vector(record, len(self._class_names))

    def add(self, record: dict[str, Any], labels: np.ndarray, output: dict[str, Any]) -> None:
        """Keep the scores (C,) of one image."""
        scores = self.prediction(record, output, labels.shape).float().cpu().numpy()
        finite = np.isfinite(scores)
        self._num_not_finite += not finite.all()
        self._scores.append((record["image_id"], np.where(finite, scores, 0)))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``mAP`` and ``AP-<class>`` in 0-100; NaN for a class that no image shows."""
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
        nothing = np.zeros(len(self._class_names))
        scores = np.stack([known.get(i, nothing) for i in labels]) if labels else nothing[None]
        present = np.stack(list(labels.values())) > 0 if labels else nothing[None] > 0
        results = {self.output_name: self._metrics(scores, present)}
        if self._legacy:
            results[f"{self.output_name}-legacy"] = {"mAP": 100 * official_mean_ap(scores, present)}
        return results

    def _metrics(self, scores: np.ndarray, present: np.ndarray) -> dict[str, float]:
        """From (N, C) scores and (N, C) bool."""
        ap = np.array(
            [voc_average_precision(s, p) for s, p in zip(scores.T, present.T, strict=True)]
        )
        per_class = zip(self._class_names, ap, strict=True)
        return {"mAP": 100 * nan_mean(ap), **{f"AP-{n}": 100 * float(a) for n, a in per_class}}
