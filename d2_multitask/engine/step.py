"""One training step: Detectron2's; a loss or gradient that is not finite stops it and is named."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine.train_loop import AMPTrainer, SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from d2_multitask.checkpoint.checkpointer import OPTIMIZER_NAME
from d2_multitask.data.sampler import DATASET_KEY, seed_random_states
from d2_multitask.engine.balancing import LossBalancer, SharedGradientError, build_balancer
from d2_multitask.engine.hooks import unwrap
from d2_multitask.engine.task_gradients import sum_by_task, task_names
from d2_multitask.losses import sum_over_workers

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]
BALANCING_KEY = "loss_balancing"
# Skipped steps in a row, each of which halves the scale: gradients that are not finite with a
# billionth of it will not become finite.
_MOST_SKIPPED = 30


class BatchMemory:
    """Iterates over a data loader and keeps the last batch, for messages and pictures.

    Attributes:
        last: the batch.
        seed: numbers from 0 for the random states that the network finds; ``()`` = as they are.
            They are set once the batch is there: loaders draw from them too, and when they begin
            once more than otherwise.
        set_names: the datasets whose shares of the batches are logged.
    """

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader
        self.set_names: list[str] = getattr(getattr(loader, "images", None), "set_names", [])
        self.last: Batch = []
        self.seed: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            self.last = batch
            if self.seed:
                seed_random_states(*self.seed)
            yield batch


class FloatStep(SimpleTrainer):
    """Detectron2's step, with checked losses and gradients and a total for each task.

    The check happens after the backward pass and before the weights change, in every process, on
    numbers that are fetched from the GPU anyway. A training state knows its kind of optimizer.

    Attributes:
        weights_changed: ``False`` after a step that was skipped.
        balancer: weighs the losses; ``None`` = they are learned from as they come. Those that are
            logged come without its weights.
    """

    data_loader: BatchMemory
    checks_gradients = True
    weights_changed = True
    balancer: LossBalancer | None = None
    _unweighted: Mapping[str, Tensor] | None = None

    def run_step(self) -> None:
        """Detectron2's, with the losses that ``balancer`` weighs.

        Raises:
            FloatingPointError: a loss or a gradient is not finite.
        """
        if self.balancer is None:
            super().run_step()
            return
        attached = self.balancer.attached(self.model, self.iter, self._scaler())
        with attached as self._unweighted:
            try:
                super().run_step()
            except SharedGradientError as error:
                batch = self.data_loader.last
                losses = {name: loss.item() for name, loss in self._unweighted.items()}
                if all(map(math.isfinite, losses.values())):
                    message = f"{error} {_batch_and_advice(batch)}"
                else:
                    message = describe_losses(losses, self.iter, batch)
                raise FloatingPointError(message) from None

    def after_backward(self) -> None:
        """Detectron2's, after the heads' gradients lost the weights of ``balancer``."""
        if self.balancer is not None:
            self.balancer.unweigh_heads(self.model)
        super().after_backward()

    def _scaler(self) -> Callable[[], float] | None:
        """The scale of float16's losses; ``None`` where losses are not scaled."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's, with the optimizer's name and the weights of the tasks."""
        state = {**super().state_dict(), OPTIMIZER_NAME: optimizer_name(self.optimizer)}
        if self.balancer is not None:
            state[BALANCING_KEY] = self.balancer.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue a training.

        Raises:
            ValueError: with another optimizer; Adam's numbers would fit AdamW, for example.
        """
        found = optimizer_name(self.optimizer)
        expected = state_dict.get(OPTIMIZER_NAME, found)
        if found != expected:
            raise ValueError(
                f"SOLVER.OPTIMIZER: found {found!r}, expected {expected!r} as in the checkpoint"
            )
        super().load_state_dict(state_dict)
        if self.balancer is not None and BALANCING_KEY in state_dict:
            self.balancer.load_state_dict(state_dict[BALANCING_KEY])

    def _write_metrics(
        self,
        loss_dict: Mapping[str, Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,
    ) -> None:
        """Log the losses.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; names the iteration, the loss
                or the parameters, and the images.
        """
        iteration = self.iter if iter is None else iter
        loss_dict = self._unweighted or loss_dict
        fetched = [loss.detach().float() for loss in loss_dict.values()]
        if self.checks_gradients:
            fetched.append(gradient_norm(self.model).to(fetched[0].device))
        batch = self.data_loader.last
        names = self.data_loader.set_names
        fetched += set_counts(batch, names, fetched[0].device)
        # One transfer for all of them; what Detectron2 reads after this is on the CPU already.
        ends = [len(loss_dict), len(fetched) - len(names)]
        values, norm, counts = torch.stack(fetched).cpu().tensor_split(ends)
        if not torch.isfinite(values).all():
            losses = dict(zip(loss_dict, values.tolist(), strict=True))
            raise FloatingPointError(describe_losses(losses, iteration, batch))
        # A norm may also overflow where every gradient is finite.
        if not torch.isfinite(norm).all() and (broken := broken_gradients(self.model)):
            raise FloatingPointError(
                f"Gradient became infinite or NaN at iteration {iteration}, in {len(broken)} "
                f"parameters, first {', '.join(broken[:3])}. The weights are those before this "
                f"step. {_batch_and_advice(batch)}"
            )
        losses = dict(zip(loss_dict, values, strict=True))
        super()._write_metrics(losses, data_time, prefix, iter)
        if comm.is_main_process():
            storage = get_event_storage()
            # Means over all processes. A lone loss is not there: it is "total_loss" only.
            latest = storage.latest()
            means = {key: latest[prefix + key][0] for key in losses if prefix + key in latest}
            totals = sum_by_task(means, task_names(self.model))
            storage.put_scalars(cur_iter=iteration, **{f"task/{t}": x for t, x in totals.items()})
            shares = zip(names, (counts / counts.sum()).tolist(), strict=True)
            # Not smoothed: the median of a rare dataset's shares is 0.
            shares = {f"data/{name}": share for name, share in shares}
            if self.balancer is not None:
                shares.update(self.balancer.scalars())
            storage.put_scalars(cur_iter=iteration, smoothing_hint=False, **shares)


class CudaAmpStep(FloatStep, AMPTrainer):
    """A step in mixed precision on a GPU: float16 with a scaled loss, Detectron2's AMPTrainer.

    Its scaler skips a step whose gradients are not finite, and lowers the scale. A skipped step is
    an iteration like others: its images are used up, its losses are logged, the schedule goes on;
    weights and their average stay as they are. ``amp/skipped_steps`` counts them.
    """

    checks_gradients = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._skipped = self._skipped_in_row = 0
        # The scaler does not tell, and its scale would have to be fetched from the GPU.
        self.optimizer.register_step_post_hook(lambda *_: setattr(self, "weights_changed", True))

    def _scaler(self) -> Callable[[], float] | None:
        return self.grad_scaler.get_scale if self.grad_scaler.is_enabled() else None

    def run_step(self) -> None:
        """Detectron2's.

        Raises:
            FloatingPointError: a loss is not finite, or no gradients were for many steps.
        """
        self.weights_changed = False
        super().run_step()
        self._skipped_in_row = 0 if self.weights_changed else self._skipped_in_row + 1
        self._skipped += not self.weights_changed
        get_event_storage().put_scalar("amp/skipped_steps", self._skipped, smoothing_hint=False)
        if self._skipped_in_row == _MOST_SKIPPED:
            broken = ", ".join(broken_gradients(self.model)[:3])
            raise FloatingPointError(
                f"Gradients became infinite or NaN in {_MOST_SKIPPED} steps in a row, up to "
                f"iteration {self.iter}, whatever the scale of the loss, first in {broken}. "
                + _batch_and_advice(self.data_loader.last)
            )


class CpuAmpStep(FloatStep):
    """A step in mixed precision on the CPU: bfloat16, whose range needs no scaled loss.

    Detectron2's AMPTrainer insists on CUDA. The backward pass and the optimizer run inside the
    autocast region too; they hold no operation that autocast changes.
    """

    def run_step(self) -> None:
        """One step under autocast."""
        with torch.autocast("cpu", torch.bfloat16):
            super().run_step()


def has_native_bfloat16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 itself, as Linux tells; elsewhere ``False``."""
    try:
        words = set(cpu_info.read_text().split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def build_step(
    cfg: CfgNode, model: nn.Module, data_loader: Iterable[Batch], optimizer: torch.optim.Optimizer
) -> FloatStep:
    """The step for ``SOLVER.AMP.ENABLED``, the model's device and ``SOLVER.LOSS_BALANCING``.

    On a processor that only emulates bfloat16, mixed precision would cost time instead of saving
    it; there, and on devices other than CUDA's, the step stays in single precision and says so.
    """
    balancer = build_balancer(cfg, model)
    step = _step_of_precision(cfg, model, BatchMemory(data_loader), optimizer)
    step.balancer = balancer
    return step


def _step_of_precision(
    cfg: CfgNode, model: nn.Module, memory: BatchMemory, optimizer: torch.optim.Optimizer
) -> FloatStep:
    if not cfg.SOLVER.AMP.ENABLED:
        return FloatStep(model, memory, optimizer)
    device = next(model.parameters()).device.type
    if device == "cpu":
        if has_native_bfloat16():
            return CpuAmpStep(model, memory, optimizer)
        logger.info("SOLVER.AMP: this processor has no bfloat16 arithmetic; training in float32.")
        return FloatStep(model, memory, optimizer)
    if device != "cuda":
        logger.info("SOLVER.AMP: not for the device %r; training in float32.", device)
        return FloatStep(model, memory, optimizer)
    scaler = torch.amp.GradScaler("cuda")
    return CudaAmpStep(model, memory, optimizer, grad_scaler=scaler)


def optimizer_name(optimizer: torch.optim.Optimizer) -> str:
    """As in ``SOLVER.OPTIMIZER``; Detectron2's clipping makes a class of a longer name."""
    return type(optimizer).__name__.removesuffix("WithGradientClip").upper()


def gradient_norm(model: nn.Module) -> Tensor:
    """Norm over all gradients, a scalar on their device; 0 without any. Waits for no GPU."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    # As torch.nn.utils.get_total_norm, which PyTorch has since 2.6.
    return torch.stack(torch._foreach_norm(gradients)).norm().float()


def broken_gradients(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradient is not finite."""
    named = unwrap(model).named_parameters()
    return [n for n, p in named if p.grad is not None and not torch.isfinite(p.grad).all()]


def describe_losses(losses: Mapping[str, float], iteration: int, batch: Batch) -> str:
    """What is said when one of the losses (``loss_<task>_<term>``) is not finite."""
    broken = {key: value for key, value in losses.items() if not math.isfinite(value)}
    return (
        f"Loss became infinite or NaN at iteration {iteration}: "
        + ", ".join(f"{key} = {value}" for key, value in broken.items())
        + ". All losses: "
        + ", ".join(f"{key} = {value:.4g}" for key, value in losses.items())
        + ". "
        + _batch_and_advice(batch)
    )


def _batch_and_advice(batch: Batch) -> str:
    images = [str(x.get("file_name", x.get("image_id", "?"))) for x in batch]
    return (
        "Images of this batch:\n  "
        + "\n  ".join(images)
        + "\nOften the learning rate is too high (SOLVER.BASE_LR, SOLVER.WARMUP_ITERS, "
        "SOLVER.CLIP_GRADIENTS), or a label is wrong: look at these images with "
        "tools/visualize_data.py."
    )


def set_counts(batch: Batch, names: Sequence[str], device: torch.device) -> Tensor:
    """(S,) float32: how many images of the batches of all processes are of each of S datasets."""
    found = [image.get(DATASET_KEY) for image in batch]
    counts = torch.tensor([float(found.count(name)) for name in names], device=device)
    return sum_over_workers(counts) if names else counts
