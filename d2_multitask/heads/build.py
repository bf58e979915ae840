"""The registry of task heads and the one place that builds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import nn

if TYPE_CHECKING:
    from d2_multitask.heads.base import TaskHead


class TaskHeadRegistry(Registry):
    """Detectron2's registry, but entries get the name that users type, not that of the class."""

    def register(self, name: str) -> Callable[[type[TaskHead]], type[TaskHead]]:
        """Class decorator that registers a head as ``name``.

        Raises:
            AssertionError: the name is taken.
        """

        def add(head: type[TaskHead]) -> type[TaskHead]:
            self._do_register(name, head)
            return head

        return add


TASK_HEAD_REGISTRY = TaskHeadRegistry("TASK_HEAD")
TASK_HEAD_REGISTRY.__doc__ = """
Heads by the name that ``MODEL.TASKS`` and ``TEST.TASKS`` use.

A registered class is a :class:`d2_multitask.heads.base.TaskHead`; it is called as
``head(cfg, input_shape)`` with ``input_shape: dict[str, ShapeSpec]`` of the backbone, and answers
the methods that ``TaskHead`` lists. Registering it (``@TASK_HEAD_REGISTRY.register("name")``) and
naming it in ``MODEL.TASKS`` is all that a new task needs.
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


def with_required(tasks: Sequence[str], key: str = "MODEL.TASKS") -> list[str]:
    """The tasks and the heads that they rest on, each once, in an order in which they can run.

    ``requires`` is what a head cannot do without (it is added); ``uses`` is what it reads if it is
    there (it only decides the order).

    Raises:
        ValueError: unknown task.
    """
    wanted: list[str] = []

    def want(name: str) -> None:
        for required in head_class(name, key).requires:
            want(required)
        if name not in wanted:
            wanted.append(name)

    for task in tasks:
        want(task)
    ordered: list[str] = []

    def place(name: str) -> None:
        if name in ordered:
            return
        head = head_class(name, key)
        for earlier in (*head.requires, *head.uses):
            if earlier in wanted:
                place(earlier)
        ordered.append(name)

    for name in wanted:
        place(name)
    return ordered


def build_heads(
    cfg: CfgNode, input_shape: dict[str, ShapeSpec], tasks: Sequence[str] | None = None
) -> nn.ModuleDict:
    """Build the heads of ``MODEL.TASKS`` and those that they require, in running order.

    Args:
        cfg: full config.
        input_shape: the backbone's output.
        tasks: build only these, of which there may be none; ``None`` = ``MODEL.TASKS``.

    Returns:
        name -> head.

    Raises:
        ValueError: ``MODEL.TASKS`` is empty or names an unknown task.
    """
    if not cfg.MODEL.TASKS:
        raise ValueError(
            "MODEL.TASKS: found an empty list, expected at least one task, e.g. ['det']"
        )
    wanted = cfg.MODEL.TASKS if tasks is None else tasks
    return nn.ModuleDict(
        {name: head_class(name)(cfg, input_shape) for name in with_required(wanted)}
    )
