"""How a task registers its evaluator, and the base class of those that read one label per image.

It is below the heads, so that a task can register its evaluator in its own file.
"""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from d2_multitask.data.labels.base import Label

logger = logging.getLogger(__name__)


class EvaluationRequest(NamedTuple):
    """What is to be evaluated.

    Attributes:
        dataset_name: registered name.
        records: the dataset's dicts.
        tasks: names of tasks.
        output_folder: for predictions.
    """

    dataset_name: str
    records: Sequence[dict[str, Any]]
    tasks: Sequence[str]
    output_folder: str

    @property
    def metadata(self) -> Metadata:
        """The dataset's metadata, complete because its dicts are loaded."""
        return MetadataCatalog.get(self.dataset_name)

    def has(self, label: Label) -> bool:
        """Whether any image has a label; logs if none has."""
        found = any(map(label.has, self.records))
        if not found:
            logger.info(
                f"Dataset {self.dataset_name!r} has no {label.description}: no metric for them."
            )
        return found


EvaluatorBuilder = Callable[[CfgNode, EvaluationRequest], DatasetEvaluator | None]
"""``None`` says that the labels or the config leave nothing to measure."""

TASK_EVALUATORS: dict[str, tuple[EvaluatorBuilder, ...]] = {}
"""What measures a task, whatever the ``evaluator_type`` of the dataset."""


def register_evaluator(*tasks: str) -> Callable[[EvaluatorBuilder], EvaluatorBuilder]:
    """Decorator of a builder that is called if one of the tasks is evaluated.

    Its `LabelEvaluator`, say, is built for every dataset with the label:

        @register_evaluator("depth")
        def build_depth_evaluator(cfg, request):
            return DepthEvaluator(...) if request.has(DepthLabel()) else None
    """

    def add(build: EvaluatorBuilder) -> EvaluatorBuilder:
        for task in tasks:
            TASK_EVALUATORS[task] = (*TASK_EVALUATORS.get(task, ()), build)
        return build

    return add


def gathered(values: list[Any], distributed: bool) -> list[Any] | None:
    """The values of all processes, one after another; ``None`` in all but the first."""
    if not distributed:
        return values
    comm.synchronize()
    parts = comm.gather(values, dst=0)
    return list(itertools.chain.from_iterable(parts)) if comm.is_main_process() else None


class LabelEvaluator(DatasetEvaluator):
    """Finds the label of each image; images without it are not counted, with a warning.

    Attributes:
        output_name: key of the model's output and of the results.
        task: the task that predicts it, for messages.
        metrics: names of the results' metrics; one that ends in "-" is followed by each class name.
        observer: is called as `add` after it, with each labelled image.
    """

    output_name: ClassVar[str]
    task: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]] = ()
    observer: Callable[[dict[str, Any], Any, dict[str, Any]], None] | None = None

    def __init__(
        self, dataset_name: str, records: Sequence[dict[str, Any]], *, distributed: bool = True
    ) -> None:
        """
        Args:
            dataset_name: registered name, for messages.
            records: the dataset's dicts.
            distributed: gather the counts of all processes.
        """
        self._dataset_name = dataset_name
        self._records = {_image_id(record): record for record in records}
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget the counts of an earlier round."""
        self._num_unlabelled = 0
        self._num_not_finite = 0

    @property
    def class_names(self) -> list[str]:
        """Names of the classes that are measured; empty if there are none."""
        return list(getattr(self, "_class_names", ()))

    def metric_names(self) -> list[str]:
        """What `evaluate` will give, as ``TEST.BEST_METRIC`` can name it."""
        return [
            f"{self.output_name}/{metric}{name}"
            for metric in self.metrics
            for name in (self.class_names if metric.endswith("-") else ("",))
        ]

    @abstractmethod
    def labels(self, record: dict[str, Any]) -> Any:
        """The label of an image, ``None`` if it has none."""

    @abstractmethod
    def add(self, record: dict[str, Any], labels: Any, output: dict[str, Any]) -> None:
        """Count one labelled image."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count a few images.

        Args:
            inputs: what the model was called with; ``image_id`` is used, or, if there is none,
                ``file_name``.
            outputs: what it returned, at the size of the original images.

        Raises:
            ValueError: an output lacks the entry or has another shape than the labels, or an
                ``image_id`` is not in the dataset.
        """
        for input_, output in zip(inputs, outputs, strict=True):
            record = self._records.get(_image_id(input_))
            if record is None:
                raise ValueError(
                    f"{input_.get('file_name')}: 'image_id' is {_image_id(input_)!r}, expected "
                    f"the id of an image of dataset {self._dataset_name!r}"
                )
            # Records of image folders have no height and width.
            size = {key: input_[key] for key in ("height", "width") if key in input_}
            record = {**record, **size}
            labels = self.labels(record)
            if labels is None:
                self._num_unlabelled += 1
            else:
                self.add(record, labels, output)
                if self.observer is not None:
                    self.observer(record, labels, output)

    def prediction(
        self,
        record: dict[str, Any],
        output: dict[str, Any],
        shape: tuple[int, ...],
        name: str | None = None,
        task: str | None = None,
    ) -> Tensor:
        """The entry ``name`` of the output, by default `output_name`.

        Raises:
            ValueError: it is missing, or has another shape than ``shape``.
        """
        where, name, task = record.get("file_name"), name or self.output_name, task or self.task
        if name not in output:
            raise ValueError(
                f"{where}: the model's output has {sorted(output)}, expected {name!r}. Is {task!r} "
                "one of TEST.TASKS?"
            )
        found = tuple(output[name].shape)
        if found != shape:
            raise ValueError(f"{where}: the model's {name!r} has shape {found}, expected {shape}")
        return output[name]

    def gather(self, values: list[Any]) -> list[Any] | None:
        """The values of all processes, one after another; ``None`` in all but the first.

        Warns of images without a label and of predictions that are not finite.
        """
        parts = gathered([(values, self._num_unlabelled, self._num_not_finite)], self._distributed)
        if parts is None:
            return None
        values = [value for part, _, _ in parts for value in part]
        num_unlabelled, num_not_finite = (sum(part[i] for part in parts) for i in (1, 2))
        if num_unlabelled:
            logger.warning(
                f"{num_unlabelled} images of {self._dataset_name!r} have no label for "
                f"{self.output_name!r} and are not counted."
            )
        if num_not_finite:
            logger.warning(
                f"{num_not_finite} predictions of {self.output_name!r} on {self._dataset_name!r} "
                "hold a NaN or infinite number. The weights are probably broken."
            )
        return values


def _image_id(image: dict[str, Any]) -> Any:
    return image.get("image_id", image.get("file_name"))
