"""Gradients of the tasks' losses by the features that all tasks share.

They are taken with ``torch.autograd.grad``: no parameter gets a gradient, no weight changes, and
the hooks of DistributedDataParallel are not called.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from d2_multitask.engine.hooks import unwrap
from d2_multitask.modeling.rcnn import LOSS_NAMES

# Numbers of each gradient that become float64 at a time: a copy of all would need much memory.
_GRAM_BLOCK = 2**20


@dataclass(frozen=True)
class GradientStatistics:
    """What the gradients of K tasks tell about each other.

    Attributes:
        norms: task -> Euclidean norm of its gradient.
        shares: task -> its norm divided by the sum of all norms; 0 if all are 0.
        cosines: task -> cosine of the angle between its gradient and the sum of all others' (below
            0: they pull in different directions); 0 if one of the two is 0.
        pairs: (task, other task) -> the same between two tasks, for all pairs in both orders.
        condition: largest divided by smallest singular value of the (K, D) matrix whose rows are
            the gradients (arXiv 2305.19000, equation 3): 1 if they are orthogonal and equally long,
            infinite if one of them is 0 or a combination of the others.
    """

    norms: dict[str, float]
    shares: dict[str, float]
    cosines: dict[str, float]
    pairs: dict[tuple[str, str], float]
    condition: float


def task_names(model: nn.Module) -> list[str]:
    """The tasks that the model names, otherwise those of its heads; Detectron2's networks' own."""
    model = unwrap(model)
    if hasattr(model, "task_names"):
        return list(model.task_names)
    if hasattr(model, "heads"):
        return [*getattr(model, "other_tasks", ()), *model.heads]
    return ["det", "mask", "pose"] if hasattr(model, "roi_heads") else []


def task_of_loss(name: str, tasks: Iterable[str]) -> str:
    """The task that a loss belongs to, ``""`` if it is none of ``tasks``.

    ``name`` is ``loss_<task>`` or ``loss_<task>_<term>``, or one of Detectron2's R-CNN.
    """
    name = LOSS_NAMES.get(name, name)
    fitting = [task for task in tasks if f"{name}_".startswith(f"loss_{task}_")]
    return max(fitting, key=len, default="")  # "part_seg" rather than "part"


def sum_by_task(losses: Mapping[str, Tensor], tasks: Iterable[str]) -> dict[str, Tensor]:
    """Task -> sum of its losses, for the tasks that have one, in the order of ``tasks``."""
    tasks = list(tasks)
    found = {name: task_of_loss(name, tasks) for name in losses}
    return {
        task: sum(losses[name] for name in losses if found[name] == task)
        for task in tasks
        if task in found.values()
    }


@contextlib.contextmanager
def shared_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that gets the features that all tasks read, whenever the model is called.

    They are the outputs of the backbone that need a gradient: the feature map, or those of the
    pyramid. A backbone may name another layer, as ``shared_layer``: that of a masked autoencoder,
    whose tasks see different patches, gives an output for each of its calls.

    Raises:
        ValueError: there is no ``backbone``.
    """
    backbone = getattr(unwrap(model), "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(
            f"{type(unwrap(model)).__name__} has no backbone whose features are shared"
        )
    features: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        features.extend(feature for feature in _tensors(output) if feature.requires_grad)

    hook = getattr(backbone, "shared_layer", backbone).register_forward_hook(keep)
    try:
        yield features
    finally:
        hook.remove()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, Sequence) else []


def task_gradients(
    losses: Mapping[str, Tensor], features: Sequence[Tensor], scale: float = 1.0
) -> dict[str, Tensor]:
    """The gradient of each loss by all features together.

    The graph is kept, so that the losses can be learned from afterwards. Where one map is made of
    another, as the last of a pyramid, a gradient by the first counts in that by the second too.

    Args:
        losses: name -> (), for example of `sum_by_task`.
        features: D numbers in all, as of `shared_features`.
        scale: losses are multiplied by it and gradients divided, against underflow in float16.

    Returns:
        Name -> (D,) float32; zeros for a loss that does not depend on the features.

    Raises:
        ValueError: there are no features, which is so if all that the tasks share is frozen.
    """
    if not features:
        raise ValueError(
            "Gradients of the tasks: found no shared features that are learned, expected some; "
            "MODEL.FREEZE or MODEL.MAE_BACKBONE.FREEZE_ENCODER may leave none"
        )
    return {name: _gradient(loss, features, scale) for name, loss in losses.items()}


def _gradient(loss: Tensor, features: Sequence[Tensor], scale: float) -> Tensor:
    parts: Sequence[Tensor | None] = [None] * len(features)
    if loss.requires_grad:
        parts = torch.autograd.grad(loss * scale, features, retain_graph=True, allow_unused=True)
    flat = [
        (torch.zeros_like(feature) if part is None else part).float().flatten()
        for feature, part in zip(features, parts, strict=True)
    ]
    return torch.cat(flat) / scale


def gram_matrix(gradients: Mapping[str, Tensor]) -> Tensor:
    """(K, K) float64: scalar products of K gradients, on their device."""
    blocks = zip(*(g.split(_GRAM_BLOCK) for g in gradients.values()), strict=True)
    rows = (torch.stack(block).double() for block in blocks)
    return sum(block @ block.T for block in rows)


def gram_statistics(names: Sequence[str], gram: Tensor) -> GradientStatistics:
    """Norms, shares, cosines and condition number of K >= 1 gradients from their Gram matrix.

    Raises:
        FloatingPointError: a gradient is not finite; names the tasks.
    """
    norms = gram.diagonal().sqrt()
    if broken := [name for name, norm in zip(names, norms, strict=True) if not norm.isfinite()]:
        raise FloatingPointError(f"Infinite or NaN gradient by the shared features of {broken}")
    total = gram.sum(1)  # scalar products with the sum of all
    of_others = (gram.sum() - 2 * total + norms**2).clamp(min=0).sqrt()
    pairs = _cosines(gram, norms[:, None] * norms)
    smallest, largest = torch.linalg.eigvalsh(gram)[[0, -1]].clamp(min=0).sqrt().tolist()
    rounded_off = 1e-7 * largest  # of numbers that are roots of float64
    return GradientStatistics(
        norms=_by_name(names, norms),
        shares=_by_name(names, norms / norms.sum().clamp(min=1e-300)),
        cosines=_by_name(names, _cosines(total - norms**2, norms * of_others)),
        pairs={
            (a, b): float(pairs[i, j])
            for (i, a), (j, b) in itertools.permutations(enumerate(names), 2)
        },
        condition=largest / smallest if smallest > rounded_off else math.inf,
    )


def _by_name(names: Sequence[str], values: Tensor) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _cosines(products: Tensor, bounds: Tensor) -> Tensor:
    return torch.where(bounds > 0, products / bounds, 0.0).clamp(-1, 1)
