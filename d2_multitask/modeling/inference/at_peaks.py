"""Computes at the found cells only what is read there only.

Of the maps that heads predict, some are read at no more than the peaks: sizes, offsets, keypoint
offsets. At inference their branch (3x3 convolution, ReLU, 1x1 convolution) can therefore wait until
the peaks are known and be computed for the 3x3 windows around them, with the same numbers: 100 of
16,384 cells for an image of 512x512.

Letters: N images, P cells per image, C channels, (h, w) grid size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_multitask.heads.base import CellBranch
from d2_multitask.targets.decode import is_recorded, values_at

# Beyond this part of the grid the convolution of the whole map is the faster way.
DENSE_SHARE = 0.25


class BranchAtPeaks(nn.Module):
    """A branch that is computed where :func:`values_at` asks for its values."""

    def __init__(self, branch: CellBranch) -> None:
        """``branch``: see :func:`is_plain_branch`."""
        super().__init__()
        self.branch = branch
        weight = branch[-2].weight  # (hidden, C, 3, 3), or (hidden, C, 1, 1) if separable
        if len(branch) == 3:
            weight = weight * branch[0].weight.transpose(0, 1)  # (hidden, C, 3, 3)
        # (9 * C, hidden), ordered as the windows' values: row, column, channel.
        kernel = weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, feature: Tensor) -> UncomputedMap:
        """(N, C, h, w) -> the prediction, not computed yet."""
        return UncomputedMap(self, feature)


class UncomputedMap(NamedTuple):
    """A head's prediction that :func:`d2_multitask.targets.decode.values_at` computes."""

    at_peaks: BranchAtPeaks
    feature: Tensor

    def values_at(self, xy: Tensor) -> Tensor:
        """(N, P, 2) int64 cells (x, y), inside the grid -> (N, P, predictions)."""
        height, width = self.feature.shape[2:]
        # A recorded graph has one way for images of all sizes.
        if not is_recorded() and xy.shape[1] > DENSE_SHARE * height * width:
            return values_at(self.at_peaks.branch(self.feature), xy)
        windows = windows_at(self.feature, xy).flatten(2)  # (N, P, 9 * C)
        conv, predictor = self.at_peaks.branch[-2], self.at_peaks.branch[-1]
        hidden = F.relu(windows @ self.at_peaks.kernel + conv.bias)
        return F.linear(hidden, predictor.weight.flatten(1), predictor.bias)


def windows_at(feature: Tensor, xy: Tensor) -> Tensor:
    """The 3x3 windows around cells, zero outside of the map.

    Args:
        feature: (N, C, h, w); read fastest in the memory order (N, h, w, C).
        xy: (N, P, 2) int64 cells (x, y).

    Returns:
        (N, P, 9, C), row by row.
    """
    num_images, channels, height, width = feature.shape
    steps = torch.arange(-1, 2, device=feature.device)
    x, y = (xy[..., None] + steps).unbind(2)  # (N, P, 3)
    inside = ((y >= 0) & (y < height))[..., :, None] & ((x >= 0) & (x < width))[..., None, :]
    first = torch.arange(num_images, device=feature.device)[:, None, None] * height
    row_start = (first + y.clamp(0, height - 1)) * width
    row = row_start[..., :, None] + x.clamp(0, width - 1)[..., None, :]  # (N, P, 3, 3)
    cells = feature.permute(0, 2, 3, 1).reshape(-1, channels)
    windows = cells.index_select(0, row.flatten()).view(*xy.shape[:2], 9, channels)
    return windows.mul_(inside.flatten(2)[..., None])


def compute_at_peaks(model: nn.Module) -> int:
    """Let every plain :class:`CellBranch` of a network wait for its cells, in place.

    A model with a flip test averages whole maps; it is left as it is. Norms must be folded before.
    Returned is how many branches were replaced.
    """
    if getattr(model, "flip_test", False):
        return 0
    found = [
        (parent, name, branch)
        for parent in model.modules()
        if not isinstance(parent, BranchAtPeaks)
        for name, branch in parent.named_children()
        if is_plain_branch(branch)
    ]
    for parent, name, branch in found:
        setattr(parent, name, BranchAtPeaks(branch))
    return len(found)


def is_plain_branch(branch: nn.Module) -> bool:
    """Whether it is a :class:`CellBranch` with a hidden layer that has no norm."""
    if not isinstance(branch, CellBranch) or len(branch) == 1:
        return False
    return isinstance(branch[-2], nn.Conv2d) and branch[-2].norm is None
