"""The optimizer, with Detectron2's parameter groups and gradient clipping."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers.batch_norm import LayerNorm
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads.build import TaskHeads


class Muon(torch.optim.Optimizer):
    """PyTorch's Muon for the weights of linear layers, AdamW for everything else.

    Muon's steps are scaled to the size of AdamW's (arXiv 2502.16982, section 2.2), so that one
    learning rate and one weight decay are right for both.

    Args:
        groups: parameter groups; ``muon`` True in those of Muon, which hold matrices.
        lr: learning rate.
        weight_decay: decoupled.
        betas: of AdamW.
        foreach: of AdamW.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        foreach: bool,
    ) -> None:
        shared = {"lr": lr, "weight_decay": weight_decay}
        matrices, others = ([g for g in groups if g["muon"] is wanted] for wanted in (True, False))
        muon = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **shared)
        self._parts = [(True, muon)]
        if others:
            adamw = torch.optim.AdamW(others, betas=betas, foreach=foreach, **shared)
            self._parts.append((False, adamw))
        super().__init__([g for _, part in self._parts for g in part.param_groups], shared)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both; ``closure`` computes the loss anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for is_muon, part in self._parts:
            # anew each time: loading a state replaces these objects
            part.state = self.state
            part.param_groups = [g for g in self.param_groups if g["muon"] is is_muon]
            part.step()
        return loss


# Of a transformer's numbers, nearly all are weights of linear layers.
_LEAST_SHARE = 0.5
# Class behind each adaptive optimizer; "SGD" is Detectron2's own builder.
ADAPTIVE_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "ADAM": torch.optim.Adam,
    "ADAMW": torch.optim.AdamW,
    "MUON": Muon,
}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names, for the parameters that are learned.

    Learning rate and weight decay of normalisation layers and biases follow Detectron2's keys
    (``SOLVER.WEIGHT_DECAY_NORM``, ``BIAS_LR_FACTOR``, ``WEIGHT_DECAY_BIAS``), gradient clipping
    follows ``SOLVER.CLIP_GRADIENTS``. All but SGD also follow ``SOLVER.BETAS`` (of `Muon`, what is
    not Muon's), ``LAYER_DECAY``, ``OFFSET_LR_FACTOR`` and ``UNDECAYED_PARAMETERS``.

    Raises:
        ValueError: the name is unknown, a number is out of range, nothing is left to learn, or
            parts of the model are to learn at rates of their own with SGD, or are not there; Muon
            for a model that is no transformer, or with a PyTorch that does not have it.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"MODEL.FREEZE: found {cfg.MODEL.FREEZE}, which, maybe with MODEL.MAE_BACKBONE."
            "FREEZE_ENCODER, leaves no parameter to learn, expected fewer modules"
        )
    name = cfg.SOLVER.OPTIMIZER
    for module in model.modules():
        if isinstance(module, TaskHeads):
            module.unused_optimizer = ""
    if name == "SGD":
        for key in ("LAYER_DECAY", "OFFSET_LR_FACTOR"):
            if cfg.SOLVER[key] != 1:
                raise ValueError(
                    f"SOLVER.{key}: found {cfg.SOLVER[key]} with SOLVER.OPTIMIZER 'SGD', "
                    f"expected one of {[*ADAPTIVE_OPTIMIZERS]}"
                )
        return build_sgd(cfg, model)
    if name not in ADAPTIVE_OPTIMIZERS:
        raise ValueError(
            f"SOLVER.OPTIMIZER: found {name!r}, expected one of {['SGD', *ADAPTIVE_OPTIMIZERS]}"
        )
    groups = _parameter_groups(cfg, model)
    if name == "MUON":
        groups = _matrices_apart(groups, model)
    optimizer = ADAPTIVE_OPTIMIZERS[name](
        groups,
        lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        betas=_checked_betas(cfg.SOLVER.BETAS),
        foreach=True,  # one call for all parameters, as in Detectron2's SGD
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def _matrices_apart(groups: list[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """The groups, those of linear layers' weights marked for `Muon`."""
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(
            f"SOLVER.OPTIMIZER: found 'MUON' with PyTorch {torch.__version__}, expected PyTorch "
            "2.9 or later, or 'ADAMW'"
        )
    layers = (module for module in model.modules() if isinstance(module, nn.Linear))
    matrices = {layer.weight for layer in layers}
    learned = [parameter for group in groups for parameter in group["params"]]
    share = sum(p.numel() for p in learned if p in matrices) / sum(p.numel() for p in learned)
    if share < _LEAST_SHARE:
        raise ValueError(
            f"SOLVER.OPTIMIZER: found 'MUON' for a model of which {share:.1%} are weights of "
            "linear layers, which alone learn by Muon; expected a transformer, or 'ADAMW'"
        )
    result = [{**group, "muon": False} for group in groups]
    return _with_setting(result, matrices, "muon", True)


def _parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    groups = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        lr_factor_func=_lr_factors(cfg, model),
        overrides={name: {"weight_decay": 0.0} for name in _undecayed(cfg, model)},
    )
    # Detectron2 forgets its own norm ("LN" of feature pyramids) among the norms that it knows.
    forgotten = {
        parameter
        for module in model.modules()
        if isinstance(module, LayerNorm)
        for name, parameter in module.named_parameters(recurse=False)
        if name != "bias" or cfg.SOLVER.WEIGHT_DECAY_BIAS is None
    }
    if cfg.SOLVER.WEIGHT_DECAY_NORM is None or not forgotten:
        return groups
    return _with_setting(groups, forgotten, "weight_decay", cfg.SOLVER.WEIGHT_DECAY_NORM)


def _undecayed(cfg: CfgNode, model: nn.Module) -> list[str]:
    names = cfg.SOLVER.UNDECAYED_PARAMETERS
    # the defaults are MAE's, and not every model has them
    known = {*get_multitask_cfg().SOLVER.UNDECAYED_PARAMETERS}
    known |= {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"SOLVER.UNDECAYED_PARAMETERS: found {unknown}, of which the model has none, expected "
            "last parts of its parameters' names, such as 'pos_embed'"
        )
    return names


def _with_setting(
    groups: list[dict[str, Any]], parameters: set[nn.Parameter], key: str, value: Any
) -> list[dict[str, Any]]:
    """The groups, where some parameters get a setting of their own."""
    result = []
    for group in groups:
        chosen = [p for p in group["params"] if p in parameters]
        others = [p for p in group["params"] if p not in parameters]
        if others:
            result.append({**group, "params": others})
        if chosen:
            result.append({**group, "params": chosen, key: value})
    return result


def _lr_factors(cfg: CfgNode, model: nn.Module) -> Callable[[str], float]:
    """Layer decay and the rate of deformable convolutions' offsets together."""
    decay = layer_decay_factors(model, cfg.SOLVER.LAYER_DECAY) or (lambda name: 1.0)
    offset = cfg.SOLVER.OFFSET_LR_FACTOR
    if not 0 < offset <= 1:
        raise ValueError(f"SOLVER.OFFSET_LR_FACTOR: found {offset}, expected a number in (0, 1]")
    if offset != 1 and not any(_OFFSET in name for name, _ in model.named_parameters()):
        raise ValueError(
            f"SOLVER.OFFSET_LR_FACTOR: found {offset} for a model without deformable convolutions "
            f"('...{_OFFSET}...'), expected 1"
        )
    return lambda name: decay(name) * (offset if _OFFSET in name else 1.0)


def _checked_betas(betas: Any) -> tuple[float, float]:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"SOLVER.BETAS: found {betas}, expected two numbers in [0, 1)")
    return betas[0], betas[1]


# The convolution that predicts offsets and weights of a deformable one.
_OFFSET = ".conv_offset_mask."
# A transformer's blocks, and what comes before them.
_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_STEM = re.compile(r"(?:^|\.)(pos_embed|cls_token|patch_embed)(\.|$)")


def layer_decay_factors(model: nn.Module, decay: float) -> Callable[[str], float] | None:
    """Layer-wise decay of the learning rate, as in BEiT's and MAE's fine-tuning.

    With ``depth`` blocks, block i (from 0) learns at ``decay ** (depth - i)`` of the rate, the
    patch and position embedding at ``decay ** (depth + 1)``, everything else (heads, necks, the
    final norm) at the full rate.

    Args:
        model: its blocks are found by their names, ``...blocks.<i>...``.
        decay: in (0, 1].

    Returns:
        A function: parameter's name -> factor; ``None`` if all factors are 1.

    Raises:
        ValueError: ``decay`` is out of range, or the model has no such blocks.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"SOLVER.LAYER_DECAY: found {decay}, expected a number in (0, 1]")
    if decay == 1:
        return None
    matches = [_BLOCK.search(name) for name, _ in model.named_parameters()]
    depth = max((int(match[1]) + 1 for match in matches if match), default=0)
    if not depth:
        raise ValueError(
            f"SOLVER.LAYER_DECAY: found {decay} for a model without transformer blocks "
            "('...blocks.0...'), expected 1"
        )

    def factor(name: str) -> float:
        match = _BLOCK.search(name)
        if match:
            return decay ** (depth - int(match[1]))
        return decay ** (depth + 1) if _STEM.search(name) else 1.0

    return factor
