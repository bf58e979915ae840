"""The registry of task heads, and all heads of a network as one module."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from detectron2.utils.events import has_event_storage
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from d2_multitask.data.labels.base import Label
from d2_multitask.heads.base import Decoded, Lesson, Predictions, TaskHead
from d2_multitask.targets.encode import BatchLabels, to_device

logger = logging.getLogger(__name__)

# Weights of positives; negatives get one minus it.
_SHARES = ("MODEL.BOUNDARY_HEAD.POSITIVE_WEIGHT", "MODEL.OCCLUSION_HEAD.POSITIVE_WEIGHT")

Teachers = Callable[["TaskHeads", BatchLabels], Mapping[str, Sequence[Lesson]]]


class TaskHeadRegistry(Registry):
    """Detectron2's registry, but entries get the name that users type, not that of the class."""

    def register(self, name: str) -> Callable[[type[TaskHead]], type[TaskHead]]:
        """Class decorator that registers a head as ``name``, which becomes its ``task``."""

        def add(head: type[TaskHead]) -> type[TaskHead]:
            self._do_register(name, head)
            head.task = name
            return head

        return add


TASK_HEAD_REGISTRY = TaskHeadRegistry("TASK_HEAD")
TASK_HEAD_REGISTRY.__doc__ = """
Heads by the name that ``MODEL.TASKS`` and ``TEST.TASKS`` use.

A registered class is a :class:`d2_multitask.heads.base.TaskHead`; it is called as
``head(cfg, input_shape)`` with ``input_shape: dict[str, ShapeSpec]`` of the backbone. To register
it (``@TASK_HEAD_REGISTRY.register("name")``) and name it in ``MODEL.TASKS`` is all that a new task
needs.
"""


def head_class(name: str, key: str = "MODEL.TASKS") -> type[TaskHead]:
    """The class registered under ``name``.

    Raises:
        ValueError: no such head; the message lists those that exist.
    """
    if name not in TASK_HEAD_REGISTRY:
        known = ", ".join(sorted(known_name for known_name, _ in TASK_HEAD_REGISTRY))
        raise ValueError(f"{key}: found the unknown task {name!r}, expected some of: {known}")
    return TASK_HEAD_REGISTRY.get(name)


def labels_of(task: str) -> tuple[type[Label], ...]:
    """What the head of a task learns from; nothing for tasks that are not heads."""
    return head_class(task).labels if task in TASK_HEAD_REGISTRY else ()


def task_labels(cfg: CfgNode) -> list[Label]:
    """The labels that the heads of ``MODEL.TASKS`` learn from, each once."""
    kinds = dict.fromkeys(label for task in cfg.MODEL.TASKS for label in labels_of(task))
    return [label.from_config(cfg) for label in kinds]


def with_required(tasks: Iterable[str], key: str = "MODEL.TASKS") -> list[str]:
    """The tasks and the heads that they require, each once, in an order in which they can run.

    ``requires`` is what a head cannot do without (it is added); ``uses`` is what it reads if it is
    there (it only decides the order). An unknown task is an error.
    """
    wanted: dict[str, None] = {}  # a set that keeps its order

    def want(name: str) -> None:
        for required in head_class(name, key).requires:
            want(required)
        wanted[name] = None

    for task in tasks:
        want(task)
    ordered: dict[str, None] = {}

    def place(name: str) -> None:
        head = head_class(name, key)
        for earlier in (*head.requires, *head.uses):
            if earlier in wanted:
                place(earlier)
        ordered[name] = None

    for name in wanted:
        place(name)
    return list(ordered)


def check_tasks(tasks: Iterable[str], known: Collection[str]) -> None:
    """Refuse tasks for inference that a network does not have."""
    for task in tasks:
        if task not in known:
            raise ValueError(
                f"TEST.TASKS: found {task!r}, expected some of this network's tasks: "
                f"{', '.join(known)}"
            )


class TaskHeads(nn.ModuleDict):
    """The heads of a network by name, in running order: name -> :class:`TaskHead`.

    Attributes:
        unused_optimizer: ``SOLVER.OPTIMIZER``, until an optimizer is built from it.
    """

    unused_optimizer = ""

    def __init__(self, heads: Mapping[str, TaskHead] | Sequence[TaskHead] = ()) -> None:
        """
        Args:
            heads: in any order; a list is enough, because each head knows its name.

        Raises:
            ValueError: a head without one that it requires.
        """
        if not isinstance(heads, Mapping | nn.ModuleDict):
            heads = {head.task: head for head in heads}
        order = with_required(heads, "heads")
        missing = [name for name in order if name not in heads]
        if missing:
            raise ValueError(f"heads: found {list(heads)}, expected {missing} beside them")
        super().__init__({name: heads[name] for name in order})
        self._old_targets = {name for name, head in self.items() if _has_old_targets(head)}

    def chosen(self, tasks: Sequence[str], others: Sequence[str] = ()) -> list[str]:
        """What runs for ``tasks``, in order; everything if ``tasks`` is empty.

        ``others`` are the network's tasks that are not heads. They come first.
        """
        check_tasks(tasks, [*others, *self])
        if not tasks:
            return [*others, *self]
        heads = with_required([task for task in tasks if task not in others], "TEST.TASKS")
        return [*(task for task in others if task in tasks), *heads]

    def losses(
        self,
        features: dict[str, Tensor],
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
        teachers: Teachers | None = None,
    ) -> dict[str, Tensor]:
        """``{"loss_<task>_<term>": ()}`` of all heads; from teachers ``loss_<task>_teacher``.

        Args:
            features: of the backbone.
            batched_inputs: one dict per image, with whatever labels it has.
            images: the preprocessed batch.
            teachers: the heads and the batch's labels -> lessons of each task.
        """
        self._warn_of_optimizer()
        labels = BatchLabels(batched_inputs, images)
        lessons = {} if teachers is None else teachers(self, labels)
        losses: dict[str, Tensor] = {}
        made: dict[str, Predictions] = {}
        for name, head in self.items():
            predictions = made[name] = head.layers(features)
            arguments = (batched_inputs, images) if name in self._old_targets else (labels,)
            targets = to_device(head.targets(*arguments), labels.device)
            if head.reads_decoded:
                with torch.no_grad():
                    targets["decoded"] = self._found(head.requires, made, images)
            losses.update(head.losses(predictions, targets))
            if lessons.get(name):
                losses[f"loss_{name}_teacher"] = _taught(head, predictions, lessons[name])
        return losses

    def _found(
        self, names: Sequence[str], predictions: Mapping[str, Predictions], images: ImageList
    ) -> Decoded:
        """What the heads ``names`` decode, in this order, from all heads' predictions."""
        decoded = Decoded()
        for name in names:
            self[name].inference(predictions[name], images, decoded)
        return decoded

    def _warn_of_optimizer(self) -> None:
        """Detectron2's DefaultTrainer trains with SGD, whatever ``SOLVER.OPTIMIZER`` says."""
        if self.unused_optimizer not in ("", "SGD") and has_event_storage():
            logger.warning(
                "SOLVER.OPTIMIZER: found %s, but this trainer's optimizer was not built from it; "
                "DefaultTrainer has SGD. Use MultitaskTrainer, or override build_optimizer with "
                "d2_multitask.engine.solver.build_optimizer.",
                self.unused_optimizer,
            )
            self.unused_optimizer = ""

    def inference(
        self,
        features: dict[str, Tensor],
        images: ImageList,
        output_sizes: Sequence[tuple[int, int]],
        names: Sequence[str] | None = None,
        flipped_features: dict[str, Tensor] | None = None,
    ) -> list[dict[str, Any]]:
        """One result dict per image; arguments as of :meth:`decode`, and the sizes wanted."""
        names = list(self) if names is None else names
        decoded = self.decode(features, images, names, flipped_features)
        results: list[dict[str, Any]] = []
        for index, sizes in enumerate(zip(images.image_sizes, output_sizes, strict=True)):
            results.append({})
            for name in names:
                results[-1].update(self[name].postprocess(decoded, index, *sizes))
        return results

    def decode(
        self,
        features: dict[str, Tensor],
        images: ImageList,
        names: Sequence[str],
        flipped_features: dict[str, Tensor] | None = None,
    ) -> Decoded:
        """What the heads decode from a batch, in pixels of the network input.

        Args:
            features: of the backbone.
            images: the preprocessed batch.
            names: the heads to run, as :meth:`chosen` gives them.
            flipped_features: of the flipped batch, with which predictions are averaged.
        """
        predictions = {name: self[name].layers(features) for name in names}
        if flipped_features is not None:
            predictions = {
                name: self[name].merge_flipped(one, self[name].layers(flipped_features))
                for name, one in predictions.items()
            }
        return self._found(names, predictions, images)


def _taught(head: TaskHead, predictions: Predictions, lessons: Sequence[Lesson]) -> Tensor:
    """The mean of what a task's teachers add to the losses."""
    terms = [
        lesson.weight
        * head.distill({name: x[lesson.rows] for name, x in predictions.items()}, lesson)
        for lesson in lessons
    ]
    return torch.stack(terms).mean()


def _has_old_targets(head: TaskHead) -> bool:
    """Whether a head is of the last version, whose targets are made of the batch and its images."""
    if "images" not in inspect.signature(head.targets).parameters:
        return False
    warnings.warn(
        f"{type(head).__name__}.targets(batched_inputs, images) is now targets(labels), with "
        "labels.batched_inputs and labels.images; the old way goes with the next version",
        FutureWarning,
        stacklevel=2,
    )
    return True


def build_heads(
    cfg: CfgNode, input_shape: dict[str, ShapeSpec], tasks: Sequence[str] | None = None
) -> TaskHeads:
    """Build the heads of ``MODEL.TASKS`` and those that they require.

    Args:
        cfg: full config.
        input_shape: the backbone's output.
        tasks: build only these, of which there may be none; ``None`` = ``MODEL.TASKS``.

    Raises:
        ValueError: ``MODEL.TASKS`` is empty or names an unknown task, or a loss has a weight that
            is none.
    """
    _check_loss_weights(cfg.MODEL)
    if not cfg.MODEL.TASKS:
        raise ValueError(
            "MODEL.TASKS: found an empty list, expected at least one task, e.g. ['det']"
        )
    wanted = cfg.MODEL.TASKS if tasks is None else tasks
    heads = TaskHeads({name: head_class(name)(cfg, input_shape) for name in with_required(wanted)})
    heads.unused_optimizer = cfg.SOLVER.get("OPTIMIZER", "")
    return heads


def _check_loss_weights(node: CfgNode, prefix: str = "MODEL.") -> None:
    """Refuse weights with which a training would raise a loss, in all keys ``..._WEIGHT``."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            _check_loss_weights(value, f"{prefix}{key}.")
        elif key.endswith("_WEIGHT") and isinstance(value, int | float):
            below = 1 if f"{prefix}{key}" in _SHARES else math.inf
            if not 0 <= value < below:
                expected = "0 or more, below 1" if below == 1 else "0 or more"
                raise ValueError(f"{prefix}{key}: found {value}, expected {expected}")
