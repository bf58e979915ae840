"""The gradients of all tasks and losses by the shared features, and what a training logged."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from d2_multitask.engine.step import BALANCING_KEY
from d2_multitask.engine.task_gradients import (
    GradientStatistics,
    gram_matrix,
    gram_statistics,
    shared_features,
    task_gradients,
    task_names,
    task_of_loss,
)

Curves = dict[str, dict[int, float]]
"""Task -> iteration -> value."""


@dataclass(frozen=True)
class Measurement:
    """One checkpoint.

    Attributes:
        iteration: of the checkpoint, from 0, as in the log.
        losses: name -> its value as weighted in training, mean over the batches.
        by_loss: of all losses, in the same order.
        by_task: of the tasks, each the sum of its losses.
        fresh: tensors of the network that the weight file has no values for.
    """

    iteration: int
    losses: dict[str, float]
    by_loss: GradientStatistics
    by_task: GradientStatistics
    fresh: Sequence[str] = ()

    @property
    def pairs(self) -> dict[tuple[str, str], float]:
        """(task, other task) -> cosine, each pair once."""
        return {pair: self.by_task.pairs[pair] for pair in combinations(self.by_task.norms, 2)}


def measure(
    model: nn.Module,
    batches: Iterable[list[dict[str, Any]]],
    iteration: int = 0,
    weights: Mapping[str, float] | None = None,
) -> Measurement:
    """Measure on batches, without any training step.

    Scalar products are summed over the batches, so that the result is that of one large batch.

    Args:
        model: a network with a ``backbone``, in training mode. Running averages of its norms move
            as in training.
        batches: as the training loader gives them, at least one.
        iteration: of its weights.
        weights: task -> what its losses are multiplied by, beside the weights of the config.

    Raises:
        ValueError: there is no batch, no ``backbone`` or no loss of a task, or a gradient is NaN or
            infinite; the message names iteration, tasks and losses.
    """
    count, values, products = 0, Counter[str](), Counter[tuple[str, str]]()
    tasks = task_names(model)
    with EventStorage():
        for batch in batches:
            count += 1
            with shared_features(model) as features:
                losses = {
                    name: loss * (weights or {}).get(task_of_loss(name, tasks), 1.0)
                    for name, loss in model(batch).items()
                }
            if not any(task_of_loss(name, tasks) for name in losses):
                raise ValueError(
                    f"Loss gradients: found the losses {list(losses)}, expected some of the tasks "
                    f"{tasks}"
                )
            rows = gram_matrix(task_gradients(losses, features)).tolist()
            for (name, loss), row in zip(losses.items(), rows, strict=True):
                values[name] += loss.item()
                products.update({(name, n): x for n, x in zip(losses, row, strict=True)})
    if not count:
        raise ValueError("Loss gradients: found no batch, expected at least one")
    names = list(values)
    gram = torch.tensor([[products[a, b] for b in names] for a in names]).double()
    try:
        by_loss = gram_statistics(names, gram)  # first: it tells which loss is NaN
    except FloatingPointError as error:
        raise ValueError(f"Iteration {iteration}: {error}") from None
    means = {name: value / count for name, value in values.items()}
    return Measurement(iteration, means, by_loss, _by_task(tasks, names, gram))


def _by_task(tasks: Sequence[str], names: Sequence[str], gram: Tensor) -> GradientStatistics:
    """Of sums of losses, from the Gram matrix of the losses."""
    of_tasks = [task_of_loss(name, tasks) for name in names]
    found = [task for task in tasks if task in of_tasks]
    sums = torch.tensor([[t == task for t in of_tasks] for task in found]).double()
    return gram_statistics(found, sums @ gram @ sums.T)


def balancing_weights(content: Mapping[str, Any]) -> dict[str, float]:
    """Task -> automatic weight in a checkpoint's training state; nothing if there is none."""
    state = content.get("trainer", {}).get("_trainer", {}).get(BALANCING_KEY)
    return dict(zip(state["tasks"], state["weights"].tolist(), strict=True)) if state else {}


def read_curves(log: Path) -> dict[str, Curves]:
    """``"weight"`` and ``"share"`` -> what ``metrics.json`` has as ``balance/<kind>-<task>``."""
    curves: dict[str, Curves] = defaultdict(lambda: defaultdict(dict))
    with contextlib.suppress(FileNotFoundError), log.open(encoding="utf-8") as file:
        for line in file:
            entry = None
            with contextlib.suppress(json.JSONDecodeError):  # a line that was cut
                entry = json.loads(line)
            if not isinstance(entry, dict) or "iteration" not in entry:
                continue
            for key, value in entry.items():
                kind, separator, task = key.removeprefix("balance/").partition("-")
                is_curve = key.startswith("balance/") and separator and isinstance(value, float)
                if is_curve and math.isfinite(value):
                    curves[kind][task][entry["iteration"]] = value
    return curves
