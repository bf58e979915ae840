"""What an evaluation is asked for, and the table of tasks and what measures them.

It is below the heads, so that a task can register its evaluator in its own file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

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
