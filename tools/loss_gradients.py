#!/usr/bin/env python
"""Prints the gradient of each loss with respect to the features that all tasks share.

    python tools/loss_gradients.py --config-file quick/mcn_seg_det_pose.yaml \
        MODEL.WEIGHTS output/quick/mcn_seg_det_pose/model_final.pth

The network gets batches of DATASETS.TRAIN as in training, and its weights do not change. For each
loss, as it is weighted: its value, the norm of its gradient by the backbone's outputs, that norm's
share of all, and the cosine to the gradient of all others (below 0: opposite directions). A task
whose share is small has little influence on the shared features; raise its weight.

Exit code: 0; 2 if something was typed wrong; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import setup_logger
from tabulate import tabulate
from torch import Tensor, nn

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.config import load_config
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.loader import build_train_loader
from d2_multitask.engine.setup import fall_back_to_cpu, parse_with_overrides
from d2_multitask.engine.trainer import load_for_evaluation
from d2_multitask.exits import exit_code


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
    """Measure on batches, without any training step.

    Args:
        model: a network with a ``backbone``, in training mode. Running averages of its norms move
            as in training.
        batches: as the training loader gives them, at least one.

    Returns:
        One entry per loss, in the order of the network's.

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


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name below configs/")
    parser.add_argument("--batches", type=int, default=4, help="how many (default: 4)")
    args = parse_with_overrides(parser, arguments)
    if args.batches < 1:
        parser.error(f"--batches: found {args.batches}, expected >= 1")
    return args


def run(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    fall_back_to_cpu(cfg)
    register_datasets(cfg.DATASETS.REGISTER)
    cfg.freeze()
    seed_all_rng(max(cfg.SEED, 0))
    model = build_model(cfg)
    load_for_evaluation(cfg, model)
    batches = itertools.islice(build_train_loader(cfg), args.batches)
    print(gradient_table(measure_loss_gradients(model.train(), batches)))


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    setup_logger(name="d2_multitask", abbrev_name="d2_multitask")
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
