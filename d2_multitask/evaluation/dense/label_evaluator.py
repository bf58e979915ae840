"""What the evaluators of one label have in common: find the image's dict, count what is missing."""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class LabelEvaluator(DatasetEvaluator):
    """Compares one entry of the model's output with one label of the data set's dicts.

    Images without the label do not count, neither as right nor as wrong.

    Attributes:
        output_name: key of the model's output and of the results.
        task: the task that predicts it, for messages.
    """

    output_name: ClassVar[str]
    task: ClassVar[str]

    def __init__(
        self, dataset_name: str, records: Sequence[dict[str, Any]], *, distributed: bool = True
    ) -> None:
        """
        Args:
            dataset_name: registered name, for messages.
            records: the data set's dicts.
            distributed: gather the counts of all processes.
        """
        self._dataset_name = dataset_name
        self._records = {record["image_id"]: record for record in records}
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget the counts of an earlier round."""
        self._num_unlabelled = 0
        self._num_not_finite = 0

    @abstractmethod
    def labels(self, record: dict[str, Any]) -> Any:
        """The label of an image, ``None`` if it has none."""

    @abstractmethod
    def add(self, record: dict[str, Any], labels: Any, output: dict[str, Any]) -> None:
        """Count one labelled image."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count a few images.

        Args:
            inputs: what the model was called with; ``image_id`` is used.
            outputs: what it returned, at the size of the original images.

        Raises:
            ValueError: an output lacks the entry or has another shape than the labels, or an
                ``image_id`` is not in the data set.
        """
        for input_, output in zip(inputs, outputs, strict=True):
            record = self._records.get(input_["image_id"])
            if record is None:
                raise ValueError(
                    f"{input_.get('file_name')}: 'image_id' is {input_['image_id']!r}, expected "
                    f"the id of an image of data set {self._dataset_name!r}"
                )
            # The dicts of a folder do not know the images' sizes.
            size = {key: input_[key] for key in ("height", "width") if key in input_}
            record = {**size, **record}
            labels = self.labels(record)
            if labels is None:
                self._num_unlabelled += 1
            else:
                self.add(record, labels, output)

    def prediction(
        self, record: dict[str, Any], output: dict[str, Any], shape: tuple[int, ...]
    ) -> Any:
        """The output's entry, checked.

        Raises:
            ValueError: it is not there, or has another shape than ``shape``.
        """
        where = record.get("file_name")
        if self.output_name not in output:
            raise ValueError(
                f"{where}: the model's output has {sorted(output)}, expected "
                f"{self.output_name!r}. Is {self.task!r} one of TEST.TASKS?"
            )
        found = tuple(output[self.output_name].shape)
        if found != shape:
            raise ValueError(
                f"{where}: the model's {self.output_name!r} has shape {found}, expected {shape}"
            )
        return output[self.output_name]

    def gather(self, values: list[Any]) -> list[Any] | None:
        """The values of all processes, one after another; ``None`` in all but the first.

        Also sums what was counted as missing, and warns of it.
        """
        missing = (self._num_unlabelled, self._num_not_finite)
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather((values, missing), dst=0)
            if not comm.is_main_process():
                return None
            values = list(itertools.chain.from_iterable(part for part, _ in gathered))
            missing = tuple(map(sum, zip(*(counts for _, counts in gathered), strict=True)))
        self._warn(*missing)
        return values

    def _warn(self, num_unlabelled: int, num_not_finite: int) -> None:
        if num_unlabelled:
            logger.warning(
                f"{num_unlabelled} images of {self._dataset_name!r} have no label for "
                f"{self.output_name!r} and do not count in it."
            )
        if num_not_finite:
            logger.warning(
                f"{num_not_finite} predictions of {self.output_name!r} on {self._dataset_name!r} "
                "hold a NaN or infinite number. The weights are probably broken."
            )
