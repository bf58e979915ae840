"""An exponential moving average of the weights: kept in training, saved, and used in evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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


class EmaHook(HookBase):
    """Updates the average after each step; goes before the hooks that save and evaluate."""

    def __init__(self, average: WeightAverage) -> None:
        self._average = average

    def after_step(self) -> None:
        """Take the new weights in."""
        self._average.update(self.trainer.model)


def build_weight_average(cfg: CfgNode, model: nn.Module) -> WeightAverage | None:
    """The average that ``SOLVER.EMA`` asks for, ``None`` if it is not enabled."""
    return WeightAverage(model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model
