"""Says which tasks never meet a label while a network trains, in any trainer."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class LabelWatch:
    """Looks for tasks whose losses are exactly 0 for a whole period: no label reached them.

    Batches may have other losses than the ones before, as where data sets take turns.
    """

    def __init__(self, period: int = 200) -> None:
        """
        Args:
            period: batches between two looks; only these wait for the device.
        """
        self.period = period
        self._reset()

    def _reset(self) -> None:
        self._batches = 0
        # Names of the losses of a batch -> (number of them,) bool, one tensor for all: one loss
        # after another would be many small operations in every step.
        self._learnt: dict[tuple[str, ...], Tensor] = {}

    def update(self, losses: Mapping[str, Tensor]) -> None:
        """Look at the losses of one batch, ``{"loss_<task>_<term>": ()}``."""
        self._batches += 1
        if losses:
            names = tuple(losses)
            found = torch.stack([loss.detach() for loss in losses.values()]) != 0
            self._learnt[names] = self._learnt[names] | found if names in self._learnt else found
        if self._batches >= self.period:
            self._warn()
            self._reset()

    def _warn(self) -> None:
        tasks: dict[str, bool] = {}
        flags = torch.cat(list(self._learnt.values())).tolist() if self._learnt else []
        for name, learnt in zip(itertools.chain.from_iterable(self._learnt), flags, strict=True):
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
