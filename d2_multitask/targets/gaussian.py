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

    The window of radius r has side 2r + 1 and sigma (2r + 1) / 6; its peak is exactly 1. A Gaussian
    is the product of its row and its column, so exponentials are taken along the axes only, of all
    objects at once. Objects of equal radius are then drawn by one scatter: the Python loop runs
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
    canvas = torch.zeros(num_channels * height * width, device=channel.device)
    if len(channel) == 0:
        return canvas.view(num_channels, height, width)
    radius, order = radius.sort()
    radii, radius_index, counts = torch.unique_consecutive(
        radius, return_inverse=True, return_counts=True
    )
    farthest = max(height, width) - 1  # no window need reach further than across the grid
    reach = min(int(radii[-1]), farthest)
    steps = torch.arange(-reach, reach + 1, device=channel.device)  # (S,)
    profile = torch.exp(steps.square() / (-2 * ((2 * radii + 1) / 6).square())[:, None])
    cell = cell_xy[order].t()[:, :, None] + steps  # (2, M, S), x and y
    # What falls outside of the grid is moved into it with the value 0, which changes no maximum.
    last = cell.new_tensor([width - 1, height - 1])[:, None, None]
    clipped = torch.minimum(cell.clamp(min=0), last)
    gaussian_x, gaussian_y = profile[radius_index] * (clipped == cell)  # (M, S) each
    column, row = clipped[0], (clipped[1] + channel[order, None] * height) * width
    start = 0
    for r, count in zip(radii.tolist(), counts.tolist(), strict=True):
        r = min(r, farthest)
        here = slice(start, start + count), slice(reach - r, reach + r + 1)
        index = row[here][:, :, None] + column[here][:, None, :]  # (count, 2r + 1, 2r + 1)
        window = gaussian_y[here][:, :, None] * gaussian_x[here][:, None, :]
        canvas.scatter_reduce_(0, index.view(-1), window.view(-1), "amax")
        start += count
    return canvas.view(num_channels, height, width)
