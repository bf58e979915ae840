"""Mean IoU of label maps: semantic segmentation and human parts.

Labels are those of training (`d2_multitask.data.labels`). Pixels are counted in one confusion
matrix in the layout of Detectron2's `SemSegEvaluator`, which computes the metrics from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.labels.base import IGNORE_VALUE
from d2_multitask.data.labels.sem_seg import PartSegLabel, SemSegLabel
from d2_multitask.evaluation.base import LabelEvaluator
from d2_multitask.evaluation.coco.labels import temporary_dataset


def count_confusion(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels by prediction (rows) and label (columns), (C + 1, C + 1) int64.

    Both maps are (H, W) ids in 0..C, where C = ``num_classes`` is "not labelled".
    """
    size = num_classes + 1
    cells = size * predicted.astype(np.int64, copy=False) + labels
    return np.bincount(cells.reshape(-1), minlength=size**2).reshape(size, size)


def mean_iou_with_background(confusion: np.ndarray) -> float:
    """Mean IoU where pixels without a label are one more class, "background".

    Background is never predicted, so its IoU is 0, and each prediction on its pixels is an error.
    (PASCAL-Context's "60 classes" for a network with 59.)

    Args:
        confusion: (C + 1, C + 1), see `count_confusion`.

    Returns:
        Mean over the classes that occur, background among them, in 0-1; NaN without any pixel.
    """
    labelled, true_positive = confusion.sum(axis=0), confusion.diagonal()
    union = labelled + confusion.sum(axis=1) - true_positive
    occurs = labelled > 0
    return float((true_positive[occurs] / union[occurs]).mean()) if occurs.any() else float("nan")


class LabelMapEvaluator(LabelEvaluator, SemSegEvaluator):
    """IoU of a label map, by default the semantic one, with the metrics of `SemSegEvaluator`.

    Results are ``{output_name: {...}}`` with ``mIoU``, ``fwIoU``, ``mACC``, ``pACC``,
    ``IoU-<class>`` and ``ACC-<class>`` in 0-100, over all pixels of all images; NaN for a class
    that no label map holds.
    """

    output_name = "sem_seg"
    task = "seg"
    metrics = ("mIoU", "fwIoU", "mACC", "pACC", "IoU-", "ACC-")
    _boundary_iou = False

    def __init__(
        self,
        dataset_name: str,
        records: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        *,
        ignore_value: int = IGNORE_VALUE,
        output_dir: str | None = None,
        distributed: bool = True,
    ) -> None:
        """As `LabelEvaluator`, for C classes, whose channels the output must have.

        Pixels with ``ignore_value`` are not counted.
        ``output_dir``: folder for the predictions, ``None`` to write none.
        """
        # Detectron2 wants a registered dataset, and a label file of each image.
        metadata = {"stuff_classes": list(class_names), "ignore_label": ignore_value}
        with temporary_dataset(dataset_name, [], **metadata) as name:
            SemSegEvaluator.__init__(self, name, distributed, output_dir)
        self._compute_boundary_iou &= self._boundary_iou
        super().__init__(dataset_name, records, distributed=distributed)

    @property
    def confusion(self) -> np.ndarray:
        """(C, C) int64 labelled pixels by label (rows) and prediction, of all processes in the
        first one once they are evaluated.
        """
        return self._conf_matrix.T[:-1, :-1]

    def reset(self) -> None:
        """Forget the counts of an earlier round."""
        super().reset()
        SemSegEvaluator.reset(self)

    def labels(self, record: dict[str, Any]) -> np.ndarray | None:
        """(H, W) uint8; ``None`` if there is no usable map, which the data report explains."""
        return SemSegLabel(self._num_classes, self._ignore_label).read(record)

    def add(self, record: dict[str, Any], labels: np.ndarray, output: dict[str, Any]) -> None:
        """Count one image: labels (H, W) uint8, scores (C, H, W)."""
        num_classes = self._num_classes
        scores = self.prediction(record, output, (num_classes, *labels.shape))
        highest, predicted = scores.max(dim=0)  # NaN is higher than any number
        self._num_not_finite += not bool(highest.isfinite().all())
        predicted = predicted.cpu().numpy()
        if f"{self.output_name}_hidden" in record:  # classes that are background in these maps
            predicted[np.asarray(record[f"{self.output_name}_hidden"])[predicted]] = 0
        labels = np.where(labels == self._ignore_label, np.int64(num_classes), labels)
        self._conf_matrix += count_confusion(predicted, labels, num_classes)
        if self._compute_boundary_iou:
            maps = (self._mask_to_boundary(ids.astype(np.uint8)) for ids in (predicted, labels))
            self._b_conf_matrix += count_confusion(*maps, num_classes)
        if self._output_dir:
            self._predictions += self.encode_json_sem_seg(predicted, record["file_name"])

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed; ``None`` in all processes but the first."""
        self.gather([])
        with np.errstate(divide="ignore", invalid="ignore"):  # no labelled pixel: NaN
            results = SemSegEvaluator.evaluate(self)
        if results is None:
            return None
        return {self.output_name: {k: float(v) for k, v in results["sem_seg"].items()}}


class MultitaskSemSegEvaluator(LabelMapEvaluator):
    """Semantic segmentation, with maps from PNG files or derived from the masks of the objects.

    The classes are ``stuff_classes`` of the metadata. Results also have Detectron2's
    ``BoundaryIoU-<class>`` and ``min(IoU, B-Iou)-<class>``.
    """

    metrics = (*LabelMapEvaluator.metrics, "BoundaryIoU-", "min(IoU, B-Iou)-")
    _boundary_iou = True

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | None,
        records: Sequence[dict[str, Any]] | None = None,
        ignore_value: int | None = None,
        distributed: bool = True,
    ) -> None:
        """As `LabelMapEvaluator`, with the dataset's own classes.

        ``records``: the dataset's dicts, if they are loaded already. ``ignore_value`` is by default
        ``ignore_label`` of the metadata, or 255.
        """
        records = load_dataset(dataset_name) if records is None else records
        metadata = MetadataCatalog.get(dataset_name)
        if ignore_value is None:
            ignore_value = metadata.get("ignore_label", IGNORE_VALUE)
        options = {"ignore_value": ignore_value, "output_dir": output_dir}
        super().__init__(
            dataset_name, records, metadata.stuff_classes, distributed=distributed, **options
        )


class SemanticEvaluator(LabelMapEvaluator):
    """IoU of PASCAL in Detail's 59 classes; pixels without a label are ignored ("PContext-59").

    ``mIoU-60`` counts them as one more class; see `mean_iou_with_background`.
    """

    metrics = ("mIoU-60", *LabelMapEvaluator.metrics)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed; ``None`` in all processes but the first."""
        results = super().evaluate()
        if results is None:
            return None
        scores = results["sem_seg"]
        with_background = 100 * mean_iou_with_background(self._conf_matrix)
        return {"sem_seg": {"mIoU": scores.pop("mIoU"), "mIoU-60": with_background, **scores}}


class PartsEvaluator(LabelMapEvaluator):
    """IoU of background and six human parts; the mean includes background.

    Images without any labelled part are not counted. People without part labels are ignored; in
    ASTMT and later works they are background.
    """

    output_name = "part_seg"
    task = "parts"

    def labels(self, record: dict[str, Any]) -> np.ndarray | None:
        """(H, W) uint8, 255 = ignored."""
        return PartSegLabel(self._num_classes).read(record)
