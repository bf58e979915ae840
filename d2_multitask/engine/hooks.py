"""What happens after a training step: averages of weights and batch norms, progress, pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]
# (model, batch) -> {name: RGB picture (H, W, 3) uint8}; must leave the model as it was
DrawPictures = Callable[[nn.Module, Batch], dict[str, np.ndarray]]
# The key of the average in a checkpoint, where MultitaskCheckpointer looks for it; the weights as
# trained are under "model".
EMA_KEY = "ema"


class WeightAverage:
    """Average of a model's parameters and buffers over the training steps.

    At the first step the average is the model. After step t (counted from 1 from there) the average
    a becomes ``d a + (1 - d) w`` with ``d = min(decay, (1 + t) / (10 + t))``. The lower ``d`` of
    the first steps lets the random initial weights go early, so that an average over a short
    training is of use (the rule of TensorFlow's ExponentialMovingAverage with ``num_updates``).

    Buffers are averaged as well: batch normalisation's statistics must fit the averaged weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: the model in training; copied now, and again at the first step.
            decay: d above, in [0, 1).

        Raises:
            ValueError: ``decay`` is out of range.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"SOLVER.EMA.DECAY: found {decay}, expected a number in [0, 1)")
        self.decay = decay
        self._averaged = AveragedModel(unwrap(model), multi_avg_fn=self._average, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """A model with the averaged weights."""
        return self._averaged.module

    @property
    def num_updates(self) -> int:
        """How many steps are averaged."""
        return int(self._averaged.n_averaged)  # lives on the CPU: no wait for the GPU

    def update(self, model: nn.Module) -> None:
        """Take the weights after a step in."""
        self._averaged.update_parameters(unwrap(model))

    def _average(self, averages: list[Tensor], weights: list[Tensor], _: Tensor | int) -> None:
        """Tensors of one type at a time, changed in place."""
        if not averages[0].is_floating_point():  # a counter has no average
            for average, weight in zip(averages, weights, strict=True):
                average.copy_(weight)
            return
        step = self.num_updates
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(averages, weights, step)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"model": self.model.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the average of a checkpoint."""
        self.model.load_state_dict(state["model"])
        self._averaged.n_averaged.fill_(state["num_updates"])


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Give the batch norms of all processes the mean of their running statistics, in place.

    Otherwise each process evaluates with those of its own images, and a checkpoint holds the first
    one's. Running statistics are sums over the batches: their mean over processes is what one
    process would have that saw all these batches. Training itself does not read them. Every process
    has to call it; alone it does nothing.
    """
    if comm.get_world_size() == 1:
        return
    norms = [m for m in unwrap(model).modules() if isinstance(m, _BatchNorm)]
    tracked = [m for m in norms if m.running_mean is not None]  # frozen ones have none
    statistics = [tensor for m in tracked for tensor in (m.running_mean, m.running_var)]
    if not statistics:
        return
    flat = torch.cat([tensor.float().flatten() for tensor in statistics])  # one message
    dist.all_reduce(flat)
    parts = (flat / comm.get_world_size()).split([tensor.numel() for tensor in statistics])
    torch._foreach_copy_(statistics, list(parts))


class TimedProgress(HookBase):
    """Writes a progress line whenever none was written for some seconds.

    Detectron2 writes one every so many iterations: minutes apart, where a step takes seconds.
    """

    def __init__(self, printer: EventWriter, period: int, seconds: float = 10.0) -> None:
        """
        Args:
            printer: writes the line.
            period: iterations between the lines that Detectron2 writes already.
            seconds: the longest silence.
        """
        self._printer = printer
        self._period = period
        self._seconds = seconds
        self._last = 0.0

    def before_train(self) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def after_step(self) -> None:
        """Write a line if it is time for one."""
        next_iter = self.trainer.iter + 1
        written_anyway = next_iter % self._period == 0 or next_iter == self.trainer.max_iter
        now = time.monotonic()
        if not written_anyway and now - self._last < self._seconds:
            return
        self._last = now
        if not written_anyway:
            self._printer.write()


class PicturesHook(HookBase):
    """Puts pictures of the last batch's targets and predictions into TensorBoard.

    A picture that cannot be drawn is a warning: it must not end a training.
    """

    def __init__(self, period: int, draw: DrawPictures) -> None:
        """
        Args:
            period: ``VIS_PERIOD``, iterations between two pictures.
            draw: makes the pictures of a batch.
        """
        self._period = period
        self._draw = draw

    def after_step(self) -> None:
        """Draw, if it is time to."""
        if (self.trainer.iter + 1) % self._period:
            return
        try:
            pictures = self._draw(self.trainer.model, self.trainer.last_batch)
        except Exception:
            logger.exception("Pictures for TensorBoard cannot be drawn:")
            return
        for name, picture in pictures.items():
            chw = np.ascontiguousarray(picture.transpose(2, 0, 1))
            self.trainer.storage.put_image(name, chw)
