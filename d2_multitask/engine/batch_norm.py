"""Batch normalisation in several processes: one set of running statistics for all of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from d2_multitask.engine.ema import unwrap


class SharedStatistics(HookBase):
    """Averages running statistics over all processes after each step.

    Otherwise each process evaluates with those of its own images, and a checkpoint holds the first
    one's. Goes before the hooks that average weights, save and evaluate, so that all of these see
    the same numbers in every process. Training itself does not read them.
    """

    def after_step(self) -> None:
        """Average."""
        average_statistics(self.trainer.model)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances of the batch norms that learn them; frozen ones have none."""
    norms = [m for m in unwrap(model).modules() if isinstance(m, _BatchNorm)]
    tracked = [m for m in norms if m.running_mean is not None]
    return [tensor for m in tracked for tensor in (m.running_mean, m.running_var)]


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Give the batch norms of all processes the mean of their running statistics, in place.

    Running statistics are sums over the batches: their mean over processes is what one process
    would have that saw all these batches. Every process has to call it; alone it does nothing.
    """
    statistics = running_statistics(model)
    if comm.get_world_size() == 1 or not statistics:
        return
    flat = torch.cat([tensor.float().flatten() for tensor in statistics])  # one message
    dist.all_reduce(flat)
    parts = (flat / comm.get_world_size()).split([tensor.numel() for tensor in statistics])
    torch._foreach_copy_(statistics, list(parts))
