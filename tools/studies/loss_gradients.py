"""How hard each loss of a network pulls at the features that all of them share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import Tensor, nn


@dataclass(frozen=True)
class LossGradient:
    """One loss; means over batches.

    Attributes:
        name: key of the loss.
        loss: its value, weighted as in training.
        gradient: Euclidean norm of its gradient by the backbone's outputs.
        share: of the sum of all losses' norms.
        cosine: of the angle between its gradient and that of all other losses together: below 0
            they pull in different directions; 0 if it is the only loss.
    """

    name: str
    loss: float
    gradient: float
    share: float
    cosine: float


def measure_loss_gradients(
    model: nn.Module, batches: Iterable[list[dict[str, Any]]]
) -> list[LossGradient]:
    """Measure on batches; nothing is learnt from them.

    Args:
        model: a network with a ``backbone`` that gives tensors by name, in training mode. Running
            averages of its norms move as in training.
        batches: as the training loader gives them, at least one.

    Returns:
        One entry a loss, in the order of the network's.

    Raises:
        ValueError: there is no batch or no ``backbone``, or a batch has no loss.
    """
    if not isinstance(getattr(model, "backbone", None), nn.Module):
        raise ValueError(f"{type(model).__name__} has no backbone whose features are shared")
    found: dict[str, list[tuple[float, float, float]]] = {}
    count = 0
    with EventStorage():
        for batch in batches:
            count += 1
            losses, gradients = _of_batch(model, batch)
            total = torch.stack(list(gradients.values())).sum(0)
            for name, gradient in gradients.items():
                cosine = torch.cosine_similarity(gradient, total - gradient, dim=0)
                values = (losses[name].item(), gradient.norm().item(), cosine.item())
                found.setdefault(name, []).append(values)
    if not count:
        raise ValueError("Loss gradients: found no batch, expected at least one")
    means = {
        name: [sum(column) / count for column in zip(*values, strict=True)]
        for name, values in found.items()
    }
    norms = sum(gradient for _, gradient, _ in means.values())
    return [
        LossGradient(name, loss, gradient, gradient / norms if norms else 0.0, cosine)
        for name, (loss, gradient, cosine) in means.items()
    ]


def _of_batch(
    model: nn.Module, batch: list[dict[str, Any]]
) -> tuple[Mapping[str, Tensor], dict[str, Tensor]]:
    """Losses, and each one's gradient by all features as one vector."""
    outputs: list[Any] = []
    hook = model.backbone.register_forward_hook(lambda *args: outputs.append(args[2]))
    try:
        losses = {name: loss for name, loss in model(batch).items() if loss.requires_grad}
    finally:
        hook.remove()
    if not losses:
        raise ValueError("Loss gradients: found no loss that depends on the network")
    features = [f for f in _tensors(outputs) if f.requires_grad]
    gradients = {}
    for name, loss in losses.items():
        parts = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
        gradients[name] = torch.cat(
            [
                (torch.zeros_like(f) if part is None else part).float().flatten()
                for f, part in zip(features, parts, strict=True)
            ]
        )
    return losses, gradients


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, Sequence) else []


def gradient_table(rows: Sequence[LossGradient]) -> str:
    """A Markdown table."""
    cells = [
        [r.name, f"{r.loss:.4g}", f"{r.gradient:.4g}", f"{100 * r.share:.1f}", f"{r.cosine:+.2f}"]
        for r in rows
    ]
    headers = ["loss", "value", "gradient", "share, %", "cosine to the others"]
    return tabulate(
        cells, headers, "github", colalign=["left", *["right"] * 4], disable_numparse=True
    )
