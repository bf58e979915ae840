"""IoU of the two label maps: semantic segmentation and human parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from d2_multitask.data.labels.maps import part_seg_map, sem_seg_map
from d2_multitask.evaluation.dense.confusion import (
    count_confusion,
    mean_iou_with_background,
    segmentation_metrics,
)
from d2_multitask.evaluation.dense.label_evaluator import LabelEvaluator


class LabelMapEvaluator(LabelEvaluator):
    """Counts pixels of all images in one confusion matrix; predictions are not kept."""

    def __init__(
        self,
        dataset_name: str,
        records: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        *,
        distributed: bool = True,
    ) -> None:
        """
        Args:
            dataset_name: registered name, for messages.
            records: the data set's dicts.
            class_names: C names; the output must have C channels.
            distributed: gather the counts of all processes.
        """
        self._class_names = list(class_names)
        super().__init__(dataset_name, records, distributed=distributed)

    def reset(self) -> None:
        """Forget the counts of an earlier round."""
        super().reset()
        num_classes = len(self._class_names)
        self._confusion = np.zeros((num_classes + 1, num_classes), dtype=np.int64)

    def add(self, record: dict[str, Any], labels: np.ndarray, output: dict[str, Any]) -> None:
        """Count one image: labels (H, W) uint8, scores (C, H, W)."""
        num_classes = len(self._class_names)
        scores = self.prediction(record, output, (num_classes, *labels.shape))
        highest, predicted = scores.max(dim=0)  # NaN is higher than any number
        self._num_not_finite += not bool(highest.isfinite().all())
        self._confusion += count_confusion(labels, predicted.cpu().numpy(), num_classes)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed, in 0-100; ``None`` in all processes but the first."""
        gathered = self.gather([self._confusion])
        if gathered is None:
            return None
        return {self.output_name: self.metrics(sum(gathered))}

    def metrics(self, confusion: np.ndarray) -> dict[str, float]:
        """Numbers from the counts of all images."""
        return segmentation_metrics(confusion, self._class_names)


class SemanticEvaluator(LabelMapEvaluator):
    """IoU of the 59 classes; what is not labelled is ignored (``mIoU``, "PContext-59").

    ``mIoU-60`` counts what is not labelled as one more class; see
    `d2_multitask.evaluation.dense.confusion.mean_iou_with_background`.
    """

    output_name = "sem_seg"
    task = "seg"

    def labels(self, record: dict[str, Any]) -> np.ndarray | None:
        """(H, W) uint8, 255 = not labelled."""
        return sem_seg_map(record)

    def metrics(self, confusion: np.ndarray) -> dict[str, float]:
        """As for any label map, and the number with background."""
        metrics = super().metrics(confusion)
        with_background = 100 * mean_iou_with_background(confusion)
        return {"mIoU": metrics.pop("mIoU"), "mIoU-60": with_background, **metrics}


class PartsEvaluator(LabelMapEvaluator):
    """IoU of background and six human parts; the mean includes background.

    Images without any labelled part are skipped, and people without part labels are ignored, as in
    ASTMT and the works after it (which count such people as background).
    """

    output_name = "part_seg"
    task = "parts"

    def labels(self, record: dict[str, Any]) -> np.ndarray | None:
        """(H, W) uint8, 255 = ignored."""
        return part_seg_map(record)
