"""Gaussian peaks on heatmaps (CenterNet, arXiv 1904.07850, section 3; CornerNet, section 3.1).

Letters: M objects, C channels in all (images x classes or images x joints), (h, w) grid size.
"""

from __future__ import annotations

import torch
from torch import Tensor

RADIUS_RULES = ("centernet", "exact")


def gaussian_radius(wh: Tensor, min_overlap: float, rule: str = "centernet") -> Tensor:
    """How far a corner pair may move while the box keeps an IoU of ``min_overlap``.

    Args:
        wh: (M, 2) box width and height, stride units.
        min_overlap: the IoU that shifted corners must keep, in (0, 1).
        rule: ``"exact"`` solves the three cases of CornerNet (both corners out, both in, one of
            each) and takes the smallest root. ``"centernet"`` is what CenterNet and all its
            descendants compute: the third root lacks its division by 2a, which makes the radius
            about 3.4 times larger at ``min_overlap`` 0.7. Trained weights and published numbers
            belong to ``"centernet"``.

    Returns:
        (M,) float radius, stride units, not rounded.

    Raises:
        ValueError: unknown ``rule``.
    """
    if rule not in RADIUS_RULES:
        raise ValueError(f"GAUSSIAN_RADIUS: found {rule!r}, expected one of {RADIUS_RULES}")
    width, height = wh.double().unbind(1)  # double: the roots are differences of near numbers
    total, area = width + height, width * height
    shift = total.square() - 4 * area * (1 - min_overlap) / (1 + min_overlap)
    shrink = total.square() - 4 * (1 - min_overlap) * area
    grow = (min_overlap * total).square() + 4 * min_overlap * (1 - min_overlap) * area
    if rule == "exact":
        roots = (
            (total - shift.sqrt()) / 2,
            (total - shrink.sqrt()) / 4,
            (grow.sqrt() - min_overlap * total) / (4 * min_overlap),
        )
    else:
        # The plus signs and the missing divisions are CenterNet's, kept to the letter.
        roots = (
            (total + shift.sqrt()) / 2,
            total + shrink.sqrt(),
            grow.sqrt() - min_overlap * total,
        )
    return torch.stack(roots).amin(0).float()


def object_radius(wh: Tensor, min_overlap: float, rule: str = "centernet") -> Tensor:
    """The integer radius that an object's Gaussian gets: sizes rounded up, radius rounded down.

    Args:
        wh: (M, 2) box width and height, stride units.
        min_overlap: see :func:`gaussian_radius`.
        rule: see :func:`gaussian_radius`.

    Returns:
        (M,) int64 radius in cells, at least 0.
    """
    return gaussian_radius(wh.ceil(), min_overlap, rule).clamp(min=0).floor().long()


def draw_gaussians(
    channel: Tensor, cell_xy: Tensor, radius: Tensor, num_channels: int, grid_hw: tuple[int, int]
) -> Tensor:
    """Draw every Gaussian in its window, keeping the larger value where windows meet.

    The window of radius r has side 2r + 1 and sigma (2r + 1) / 6; its peak is exactly 1. All
    objects of equal radius share one window and are drawn by one scatter, so the Python loop runs
    over distinct radii (bounded by the grid), never over objects or images.

    Args:
        channel: (M,) int64 index of the channel that each Gaussian is drawn on.
        cell_xy: (M, 2) int64 cell (x, y), inside the grid.
        radius: (M,) int64 radius in cells.
        num_channels: C.
        grid_hw: (h, w) of the grid.

    Returns:
        (C, h, w) float32 in [0, 1].
    """
    height, width = grid_hw
    if len(channel) == 0:
        return torch.zeros((num_channels, height, width), device=channel.device)
    # One cell more than the heatmaps have: it takes what falls outside of them.
    outside = num_channels * height * width
    canvas = torch.zeros(outside + 1, device=channel.device)
    for r in torch.unique(radius).tolist():
        here = radius == r
        reach = min(r, max(height, width) - 1)  # no window need reach further than across the grid
        steps = torch.arange(-reach, reach + 1, device=channel.device)
        profile = torch.exp(-steps.square() / (2 * ((2 * r + 1) / 6) ** 2))
        window = profile[:, None] * profile[None, :]
        x = cell_xy[here, 0, None] + steps  # (n, 2 * reach + 1)
        y = cell_xy[here, 1, None] + steps
        inside_x, inside_y = (x >= 0) & (x < width), (y >= 0) & (y < height)
        row = (channel[here, None] * height + y) * width
        index = row[:, :, None] + x[:, None, :]  # (n, 2 * reach + 1, 2 * reach + 1)
        if not (inside_x.all() and inside_y.all()):
            index = torch.where(inside_y[:, :, None] & inside_x[:, None, :], index, outside)
        canvas.scatter_reduce_(0, index.flatten(), window.expand_as(index).reshape(-1), "amax")
    return canvas[:outside].view(num_channels, height, width)
