"""Says which tasks never meet a label while a network trains, in any trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class LabelWatch:
    """Looks for tasks whose losses are exactly 0 for a whole period: no label reached them."""

    def __init__(self, period: int = 200) -> None:
        """
        Args:
            period: batches between two looks; only these wait for the device.
        """
        self.period = period
        self._batches = 0
        self._names: tuple[str, ...] = ()
        self._learnt: Tensor | None = None  # (number of losses,) bool

    def update(self, losses: Mapping[str, Tensor]) -> None:
        """Look at the losses of one batch, ``{"loss_<task>_<term>": ()}``."""
        names = tuple(losses)
        found = torch.stack([loss.detach() for loss in losses.values()]) != 0
        if self._learnt is None or names != self._names:
            self._batches, self._names, self._learnt = 0, names, torch.zeros_like(found)
        self._learnt = self._learnt | found
        self._batches += 1
        if self._batches < self.period:
            return
        tasks: dict[str, bool] = {}
        for name, learnt in zip(names, self._learnt.tolist(), strict=True):
            task = name.removeprefix("loss_").split("_")[0]
            tasks[task] = tasks.get(task, False) or learnt
        for task in (task for task, learnt in tasks.items() if not learnt):
            logger.warning(
                "Task %r has learnt nothing in %d batches: its losses were 0, because no label of "
                "it was in the batches. Look at the data set and at what the data loader's mapper "
                "gives (MultitaskDatasetMapper gives every label that an image has), or leave the "
                "task out of MODEL.TASKS.",
                task,
                self.period,
            )
        self._learnt = None
