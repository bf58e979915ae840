"""Computes at the found cells only what is read there only.

Of the maps that heads predict, some are read at no more than the peaks: sizes, offsets, joint
offsets. At inference their branch (3x3 convolution, ReLU, 1x1 convolution) can therefore wait until
the peaks are known and be computed for the 3x3 windows around them, with the same numbers: 100 of
16,384 cells for an image of 512x512.

Letters: N images, P cells an image, C channels, (h, w) grid size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_multitask.heads.base import Branch, TaskHead
from d2_multitask.targets.decode import gather_cells

# Beyond this part of the grid the convolution of the whole map is the faster way.
DENSE_SHARE = 0.25


class CellwiseBranch(nn.Module):
    """A branch whose prediction waits for its cells."""

    def __init__(self, branch: Branch) -> None:
        """
        Args:
            branch: see :func:`is_plain_branch`.
        """
        super().__init__()
        self.branch = branch
        # (9 * C, hidden), ordered as the windows' values: row, column, channel.
        kernel = branch[0].weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, feature: Tensor) -> CellwisePrediction:
        """(N, C, h, w) -> the prediction, not computed yet."""
        return CellwisePrediction(self, feature)

    def at_cells(self, feature: Tensor, xy: Tensor) -> Tensor:
        """The branch's prediction at cells.

        Args:
            feature: (N, C, h, w).
            xy: (N, P, 2) int64 cells (x, y), inside the grid.

        Returns:
            (N, P, predictions).
        """
        height, width = feature.shape[2:]
        if xy.shape[1] > DENSE_SHARE * height * width:
            return gather_cells(self.branch(feature), xy)
        windows = windows_at(feature, xy).flatten(2)  # (N, P, 9 * C)
        conv, predictor = self.branch
        hidden = F.relu(windows @ self.kernel + conv.bias)
        return F.linear(hidden, predictor.weight.flatten(1), predictor.bias)


class CellwisePrediction:
    """Stands where a head expects a map (N, predictions, h, w) of which it reads cells.

    It knows what heads do with such maps before they read them: a cast to float32 and a scale.
    """

    def __init__(self, branch: CellwiseBranch, feature: Tensor, scale: float = 1.0) -> None:
        self.branch, self.feature, self.scale = branch, feature, scale

    def float(self) -> CellwisePrediction:
        """Itself; values are float32 when they are read."""
        return self

    def __mul__(self, scale: float) -> CellwisePrediction:
        return CellwisePrediction(self.branch, self.feature, self.scale * scale)

    __rmul__ = __mul__

    def gather_cells(self, xy: Tensor) -> Tensor:
        """(N, P, 2) int64 cells (x, y) -> (N, P, predictions), float32."""
        return self.branch.at_cells(self.feature, xy).float() * self.scale


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


def make_cellwise(model: nn.Module) -> int:
    """Let the branches that heads list in ``read_at_cells`` wait for their cells, in place.

    A model with a flip test averages whole maps; it is left as it is.

    Args:
        model: its norms already folded; changed.

    Returns:
        How many branches were replaced.
    """
    if getattr(model, "flip_test", False):
        return 0
    count = 0
    for head in model.modules():
        if not isinstance(head, TaskHead):
            continue
        for name in head.read_at_cells:
            branch = getattr(head, name)
            if is_plain_branch(branch):
                setattr(head, name, CellwiseBranch(branch))
                count += 1
    return count


def is_plain_branch(branch: nn.Module) -> bool:
    """Whether it is a 3x3 convolution, ReLU and a 1x1 convolution, without a norm."""
    return (
        isinstance(branch, Branch)
        and len(branch) == 2
        and branch[0].norm is None
        and branch[0].kernel_size == (3, 3)
        and branch[0].groups == 1
    )
