"""Losses that weigh themselves: ``SOLVER.LOSS_BALANCING``.

All losses of a task are multiplied by one weight, on top of the weights that the config gives them.
The weights are the same in all processes, and part of the training's state.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn

from d2_multitask.engine.hooks import unwrap
from d2_multitask.engine.task_gradients import (
    gram_matrix,
    shared_features,
    sum_by_task,
    task_gradients,
    task_names,
    task_of_loss,
)
from d2_multitask.losses import sum_over_workers

logger = logging.getLogger(__name__)

GRADIENT_NORM, UNCERTAINTY, UPGRAD = "gradient_norm", "uncertainty", "upgrad"
METHODS = ("none", GRADIENT_NORM, UNCERTAINTY, UPGRAD)
_RCNN_PARTS = {
    **{"proposal_generator.": "det", "roi_heads.box_": "det"},
    **{"roi_heads.mask_": "mask", "roi_heads.keypoint_": "pose"},
}
_STATE = ("weights", "shares", "_sums", "_counts")
# Of the average of earlier measurements, at each new one: ten of them count.
_DECAY = 0.9
# Norms below this share of the mean norm count as that.
_LOWEST = 1e-4


class SharedGradientError(FloatingPointError):
    """The gradient of a task by the shared features is not finite."""


class LossBalancer:
    """Weights of K tasks, from measurements of their losses and gradients.

    - ``"gradient_norm"`` (arXiv 2509.23915): 1 / norm of the gradient by the shared features.
    - ``"upgrad"`` (arXiv 2406.16232, of torchjd): the weights with which the sum of the tasks'
      gradients contradicts none of them.
    - ``"uncertainty"`` (UW-SO, arXiv 2408.07985): the softmax of 1 / (loss * temperature) over
      the tasks of the batch, times their number, in each iteration anew. It costs nothing.

    Those of gradients are averages over measurements, multiplied by one number for all tasks: the
    sum of the norms of the gradients stays what it is without weights, so that learning rate,
    weight decay and gradient clipping keep their meaning. A task that all processes have no labels
    of keeps what was measured of it.

    Attributes:
        weights: (K,) float32.
        shares: (K,) float32, norm of each task's weighted gradient by the shared features, divided
            by the sum of all norms, at the last measurement. NaN before the first one, and with
            ``"uncertainty"``, which measures no gradients.
    """

    def __init__(
        self, method: str, tasks: Sequence[str], period: int = 1, temperature: float = 1.0
    ) -> None:
        """
        Args:
            method: one of ``METHODS``, but not ``"none"``.
            tasks: names, see `task_of_loss`.
            period: iterations between two measurements of gradients.
            temperature: of ``"uncertainty"``.

        Raises:
            ValueError: one of these is not as said, or torchjd is not installed.
        """
        if method not in METHODS[1:]:
            raise ValueError(
                f"SOLVER.LOSS_BALANCING: found {method!r}, expected one of {list(METHODS)}"
            )
        for key, value in (("PERIOD", period), ("TEMPERATURE", temperature)):
            if not value > 0:  # NaN too
                raise ValueError(f"SOLVER.LOSS_BALANCING_{key}: found {value}, expected > 0")
        if not tasks:
            raise ValueError(
                f"SOLVER.LOSS_BALANCING: found {method!r} and a network that names no tasks, "
                "expected 'none'"
            )
        self.method, self.tasks = method, list(tasks)
        self.period, self.temperature = period, temperature
        self._surgery = _upgrad() if method == UPGRAD else None
        self.weights = torch.ones(len(tasks))
        self.shares = torch.full_like(self.weights, torch.nan)
        # What is averaged, the norms and the method's own weights: sums, and sums of the factors.
        self._sums = torch.zeros(2, len(tasks))
        self._counts = torch.zeros(len(tasks))

    @contextlib.contextmanager
    def attached(
        self, model: nn.Module, iteration: int, scale: Callable[[], float] | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """While it lasts, the model gives weighted losses; yields those without the weights.

        Args:
            model: as it is called, also inside of DistributedDataParallel.
            iteration: from 0; the same in all processes.
            scale: of float16, that of the losses in the backward pass, see `task_gradients`.

        Raises:
            SharedGradientError: a gradient by the shared features is not finite; names the tasks.
        """
        measures = self.method != UNCERTAINTY and iteration % self.period == 0
        original: dict[str, Tensor] = {}
        with shared_features(model) if measures else contextlib.nullcontext([]) as features:

            def weigh(_module: nn.Module, _inputs: Any, losses: dict[str, Tensor]) -> dict:
                original.update({name: loss.detach() for name, loss in losses.items()})
                totals = sum_by_task(losses, self.tasks)
                if measures:
                    self._measure_gradients(totals, features, scale and scale(), iteration)
                elif self.method == UNCERTAINTY:
                    self._measure_losses(totals)
                if losses:  # a checkpoint's weights are on the CPU
                    self.weights = self.weights.to(next(iter(losses.values())).device)
                weights = dict(zip(self.tasks, self.weights.unbind(), strict=True))
                found = {name: task_of_loss(name, self.tasks) for name in losses}
                return {name: loss * weights.get(found[name], 1) for name, loss in losses.items()}

            hook = model.register_forward_hook(weigh)
            try:
                yield original
            finally:
                hook.remove()

    @torch.no_grad()
    def unweigh_heads(self, model: nn.Module) -> None:
        """Give the tasks' own parameters the gradients that they would have without weights.

        Weights that are made of gradients by shared features are for what the tasks share. In a
        head they would change the size of its gradients from one measurement to the next, which
        Adam's averages follow slowly. ``"uncertainty"`` weighs whole losses.
        """
        if self.method == UNCERTAINTY:
            return
        own: dict[str, list[Tensor]] = {task: [] for task in self.tasks}
        model = unwrap(model)
        decodes = not getattr(getattr(model, "backbone", None), "reads_decoder", True)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and (task := _owner(name, decodes)) in own:
                own[task].append(parameter.grad)
        for gradients, weight in zip(own.values(), self.weights.unbind(), strict=True):
            if gradients:
                torch._foreach_mul_(gradients, 1 / weight)

    def _measure_losses(self, totals: Mapping[str, Tensor]) -> None:
        losses = sum_over_workers(self._gathered(totals)) / comm.get_world_size()
        # Of a loss that is not finite, the step says which one it is.
        present = (losses > 0) & losses.isfinite()
        exponents = (1 / (losses * self.temperature)).clamp(max=1e30)  # or inf - inf of tiny ones
        exponents = torch.where(present, exponents, -torch.inf)
        weights = exponents.softmax(0) * present.sum()
        self.weights = torch.where(present, weights, self.weights.to(losses.device))

    def _measure_gradients(
        self,
        totals: Mapping[str, Tensor],
        features: Sequence[Tensor],
        scale: float | None,
        now: int,
    ) -> None:
        factor = 1.0 if scale is None else scale
        if self._surgery is None:  # one task's gradient in memory at a time
            gradients = (task_gradients({t: x}, features, factor)[t] for t, x in totals.items())
            squares = {t: g.square().sum() for t, g in zip(totals, gradients, strict=True)}
            gram = self._gathered(squares).diag()
        else:
            rows = task_gradients(totals, features, factor)
            zero = torch.zeros_like(next(iter(rows.values())))
            gram = gram_matrix({task: rows.get(task, zero) for task in self.tasks}).float()
        # Losses are means over processes: their gradients are those of one large batch, divided.
        gram = sum_over_workers(gram) / comm.get_world_size() ** 2
        norms = gram.diagonal().sqrt()
        if not norms.isfinite().all():
            if scale is not None:  # float16: the step is skipped, the scale lowered until it fits
                return
            broken = [self.tasks[i] for i in (~norms.isfinite()).nonzero()]
            raise SharedGradientError(
                f"SOLVER.LOSS_BALANCING: at iteration {now} the gradient of the task "
                f"{' and '.join(broken)} by the shared features became infinite or NaN."
            )
        self._take(norms, gram)

    def _take(self, norms: Tensor, gram: Tensor) -> None:
        """Average a measurement, norms (K,) and Gram matrix (K, K), and set weights and shares."""
        present = norms > 0
        own = torch.zeros_like(norms)
        if self._surgery is not None and present.any():
            # float64, which autocast leaves alone
            own[present] = self._surgery(gram[present][:, present].double()).to(own)
        sums, counts = self._sums.to(norms.device), self._counts.to(norms.device)
        new = torch.stack([norms, own])
        self._sums = torch.where(present, _DECAY * sums + (1 - _DECAY) * new, sums)
        self._counts = torch.where(present, _DECAY * counts + (1 - _DECAY), counts)
        known = self._counts > 0
        average, weights = self._sums / self._counts  # NaN where nothing is known
        average = average.where(known, 0.0)
        # A loss that has almost no gradient any more must not get all the weight that there is.
        lowest = _LOWEST * average.sum() / known.sum()
        weights = 1 / average.clamp(min=lowest) if self._surgery is None else weights
        weights = weights.where(known, 1.0)
        pull = (average * weights).sum()
        self.weights = (weights * (average.sum() / pull)).where(known & (pull > 0), 1.0)
        weighted = norms * self.weights
        self.shares = weighted / weighted.sum().clamp(min=torch.finfo(norms.dtype).tiny)

    def _gathered(self, values: Mapping[str, Tensor]) -> Tensor:
        """(K,) float32, 0 for tasks without a value."""
        zero = torch.zeros((), device=next((v.device for v in values.values()), None))
        return torch.stack([values.get(t, zero).detach().float() for t in self.tasks])

    def scalars(self) -> dict[str, float]:
        """What is logged: ``balance/weight-<task>`` and, if known, ``balance/share-<task>``."""
        columns = torch.stack([self.weights, self.shares.to(self.weights.device)]).flatten()
        names = [f"balance/{kind}-{task}" for kind in ("weight", "share") for task in self.tasks]
        found = zip(names, columns.tolist(), strict=True)
        return {name: value for name, value in found if not math.isnan(value)}

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        numbers = {name: getattr(self, name).cpu() for name in _STATE}
        return {"method": self.method, "tasks": self.tasks, **numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue; with another method or other tasks, begin anew, which is logged."""
        found, expected = (state["method"], state["tasks"]), (self.method, self.tasks)
        if found != expected:
            text = "the checkpoint's weights are of %s %s, those of %s %s begin at 1"
            logger.info(f"SOLVER.LOSS_BALANCING: {text}", *found, *expected)
            return
        for name in _STATE:
            setattr(self, name, state[name])


def build_balancer(cfg: CfgNode, model: nn.Module) -> LossBalancer | None:
    """What ``SOLVER.LOSS_BALANCING`` says, ``None`` for ``"none"``.

    Raises:
        ValueError: the method is unknown, needs a library that is not installed, or does not fit
            the network.
    """
    solver, method, model = cfg.SOLVER, cfg.SOLVER.LOSS_BALANCING, unwrap(model)
    if method == "none":
        return None
    numbers = (solver.LOSS_BALANCING_PERIOD, solver.LOSS_BALANCING_TEMPERATURE)
    balancer = LossBalancer(method, task_names(model), *numbers)
    if len(balancer.tasks) == 1:
        logger.warning(
            "SOLVER.LOSS_BALANCING: found %r and one task, %s: there is nothing to balance",
            *(method, balancer.tasks[0]),
        )
    backbone = getattr(model, "backbone", None)
    learned = backbone is not None and any(p.requires_grad for p in backbone.parameters())
    if method != UNCERTAINTY and not learned:
        raise ValueError(
            f"SOLVER.LOSS_BALANCING: found {method!r} and {type(model).__name__} without a "
            f"backbone that is learned, expected 'none' or {UNCERTAINTY!r}"
        )
    return balancer


def _owner(parameter: str, decodes: bool) -> str:
    """The task that alone has a parameter, ``""`` if it is shared.

    A masked autoencoder's decoder is reconstruction's alone if it ``decodes`` for nothing else; its
    last layer always is.
    """
    if parameter.startswith("backbone.decoder." if decodes else "backbone.decoder.decoder_pred."):
        return "reconstruction"
    if parameter.startswith("heads."):
        return parameter.split(".")[1]
    return next((task for part, task in _RCNN_PARTS.items() if parameter.startswith(part)), "")


def _upgrad() -> Callable[[Tensor], Tensor]:
    """Gram matrix (K, K) -> weights (K,), none below 1 / K."""
    try:
        return importlib.import_module("torchjd.aggregation").UPGradWeighting()
    except ImportError as error:
        raise ValueError(
            f"SOLVER.LOSS_BALANCING: {UPGRAD!r} needs torchjd ({error}). Type: python -m pip "
            "install 'torchjd[quadprog-projector]>=0.18'"
        ) from None
