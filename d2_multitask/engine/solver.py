"""The optimizer: SGD, Adam or AdamW, with Detectron2's parameter groups and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

# torch.optim class behind each adaptive optimizer; "SGD" is Detectron2's own builder.
ADAPTIVE_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "ADAM": torch.optim.Adam,
    "ADAMW": torch.optim.AdamW,
}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names, for the parameters that are learnt.

    Learning rate and weight decay of normalisation layers and biases follow Detectron2's keys
    (``SOLVER.WEIGHT_DECAY_NORM``, ``BIAS_LR_FACTOR``, ``WEIGHT_DECAY_BIAS``), gradient clipping
    follows ``SOLVER.CLIP_GRADIENTS``.

    Raises:
        ValueError: the name is unknown.
    """
    name = cfg.SOLVER.OPTIMIZER
    if name == "SGD":
        return build_sgd(cfg, model)
    if name not in ADAPTIVE_OPTIMIZERS:
        raise ValueError(
            f"SOLVER.OPTIMIZER: found {name!r}, expected one of {['SGD', *ADAPTIVE_OPTIMIZERS]}"
        )
    optimizer = ADAPTIVE_OPTIMIZERS[name](
        _parameter_groups(cfg, model),
        lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        foreach=True,  # one call for all parameters, as in Detectron2's SGD
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def _parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    return get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
