"""IoU of semantic segmentation, through Detectron2's SemSegEvaluator.

The labels are those of training (`d2_multitask.data.labels.sem_seg`): a PNG, or a map that is
derived from the masks of the objects. Images with neither are left out and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.labels.sem_seg import load_sem_seg
from d2_multitask.evaluation.coco.labels import temporary_dataset

logger = logging.getLogger(__name__)

DEFAULT_IGNORE_LABEL = 255


class MultitaskSemSegEvaluator(SemSegEvaluator):
    """Detectron2's SemSegEvaluator for PNG maps, derived maps and images without a map.

    The classes are ``stuff_classes`` of the metadata.
    Results are ``{"sem_seg": {"mIoU", "fwIoU", "IoU-<class>", "mACC", "pACC", ...}}`` in 0-100; NaN
    for a class that no label map holds.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | None,
        records: Sequence[dict[str, Any]] | None = None,
        ignore_value: int | None = None,
        distributed: bool = True,
    ) -> None:
        """
        Args:
            dataset_name: registered name.
            output_dir: folder for the predictions, ``None`` to write none.
            records: the data set's dicts, if they are loaded already.
            ignore_value: the id that means no label; by default ``ignore_label`` of the metadata,
                or 255.
            distributed: gather the counts of all processes.
        """
        if records is None:
            records = load_dataset(dataset_name)
        self._records = {r["file_name"]: r for r in records if has_sem_seg(r)}
        if ignore_value is None:
            metadata = MetadataCatalog.get(dataset_name)
            ignore_value = metadata.get("ignore_label", DEFAULT_IGNORE_LABEL)
        # Detectron2 wants a label file of every image. Derived maps have none: `process` loads the
        # labels, and Detectron2 gets them through its loading function.
        paths = [{"file_name": name, "sem_seg_file_name": name} for name in self._records]
        with temporary_dataset(dataset_name, paths, ignore_label=ignore_value) as name:
            super().__init__(name, distributed, output_dir, sem_seg_loading_fn=self._current_labels)
        self._dataset_name = dataset_name
        self._labels = np.empty((0, 0), dtype=np.uint8)
        self._num_unlabelled = 0

    def reset(self) -> None:
        """Forget the counts of an earlier round."""
        super().reset()
        self._num_unlabelled = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a few images.

        Args:
            inputs: what the model was called with: ``file_name``, ``height``, ``width``.
            outputs: what it returned, ``{"sem_seg": (num_classes, height, width)}`` each, at the
                size of the original image.

        Raises:
            ValueError: an output has no ``sem_seg``, another number of classes or another size than
                the labels.
        """
        for input_, output in zip(inputs, outputs, strict=True):
            labels = self._load_labels(input_)
            if labels is None:
                self._num_unlabelled += 1
                continue
            self._labels = labels
            self._check_output(input_["file_name"], output)
            super().process([input_], [output])

    def _load_labels(self, input_: dict[str, Any]) -> np.ndarray | None:
        """(H, W) uint8, ``None`` if the image has no usable labels; the data report says why."""
        record = self._records.get(input_["file_name"])
        if record is None:
            return None
        return load_sem_seg(
            record,
            input_["height"],
            input_["width"],
            num_classes=self._num_classes,
            ignore_value=self._ignore_label,
        )

    def _current_labels(self, file_name: str, dtype: Any) -> np.ndarray:
        """The labels that `process` has loaded; a copy, because Detectron2 writes into it."""
        return self._labels.astype(dtype)

    def _check_output(self, file_name: str, output: dict[str, Any]) -> None:
        if "sem_seg" not in output:
            raise ValueError(
                f"{file_name}: the model's output has {sorted(output)}, expected 'sem_seg'. Is "
                "'seg' one of TEST.TASKS?"
            )
        found = tuple(output["sem_seg"].shape)
        expected = (self._num_classes, *self._labels.shape)
        if found != expected:
            raise ValueError(
                f"{file_name}: the model's 'sem_seg' has shape {found}, expected {expected} "
                "(number of 'stuff_classes' of the data set, height and width of the image)"
            )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed; ``None`` in all processes but the first."""
        if self._num_unlabelled:
            logger.warning(
                f"{self._num_unlabelled} images of {self._dataset_name!r} have no usable semantic "
                "labels and do not count in the IoU."
            )
        with np.errstate(divide="ignore", invalid="ignore"):  # no labelled pixel: NaN
            results = super().evaluate()
        if results is None:
            return None
        return {task: {k: float(v) for k, v in scores.items()} for task, scores in results.items()}


def has_sem_seg(record: dict[str, Any]) -> bool:
    """Whether an image of a data set (Detectron2's dataset dict) has semantic labels."""
    derived = record.get("sem_seg_from_annotations", False) and "annotations" in record
    return any(map(record.get, ("sem_seg_file_name", "sem_seg_segments"))) or derived
