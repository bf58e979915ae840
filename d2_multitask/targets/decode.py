"""Decoding: predictions on the grid -> objects. The exact inverse of ``encode.py``.

Letters: N images, C classes, K keypoints, P peaks per image, Q peaks per
keypoint, (h, w) grid size.
Everything is in stride units until a head multiplies by the stride.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# PyTorch's max pooling on CPUs is fast over many channels only; with fewer, maxima along columns,
# then rows, are faster: 20 times for one channel, 5 times for 80 in the order (N, C, h, w).
FEW_CHANNELS = 32
# How a keypoint's peaks are weighted by distance, see `match_keypoints`; of 0.1, 0.15 and 0.2 the
# best on synthetic people that are in no results.
DISTANCE_DECAY = 0.2


@dataclass(frozen=True)
class Peaks:
    """The strongest local maxima of each image's heatmaps, best first.

    Attributes:
        scores: (N, P) in [0, 1].
        channels: (N, P) int64, the class (or keypoint) of the peak.
        xy: (N, P, 2) int64 cell (x, y).
    """

    scores: Tensor
    channels: Tensor
    xy: Tensor


def suppress_non_peaks(heatmap: Tensor, kernel: int = 3) -> Tensor:
    """Keep the cells that equal the maximum of their ``kernel`` x ``kernel`` window, zero the rest.

    Args:
        heatmap: (N, C, h, w) scores in [0, 1].
        kernel: odd window side, cells.

    Returns:
        (N, C, h, w).
    """
    # In place: a product of floats and booleans would take twice as long.
    return window_maximum(heatmap, kernel).eq_(heatmap).mul_(heatmap)


def window_maximum(heatmap: Tensor, kernel: int) -> Tensor:
    """The maximum of each cell's ``kernel`` x ``kernel`` window, cut off at the map's border.

    Args:
        heatmap: (N, C, h, w).
        kernel: odd window side, cells.

    Returns:
        (N, C, h, w).
    """
    margin = kernel // 2
    if heatmap.shape[1] > FEW_CHANNELS:
        return F.max_pool2d(heatmap, kernel, stride=1, padding=margin)
    height, width = heatmap.shape[2:]
    padded = F.pad(heatmap, [margin] * 4, value=float("-inf"))
    columns = reduce(torch.maximum, (padded[:, :, y : y + height] for y in range(kernel)))
    return reduce(torch.maximum, (columns[..., x : x + width] for x in range(kernel)))


def find_peaks(
    heatmap: Tensor, topk: int, kernel: int = 3, score_threshold: float | None = None
) -> Peaks:
    """The ``topk`` best peaks over all classes of each image.

    Args:
        heatmap: (N, C, h, w) scores in [0, 1].
        topk: P; fewer if the grid has fewer cells.
        kernel: see :func:`suppress_non_peaks`.
        score_threshold: on the processor, ranks that score no higher in any image are left out
            (smaller P).
    """
    height, width = heatmap.shape[2:]
    flat = suppress_non_peaks(heatmap, kernel).flatten(1)  # (N, C * h * w)
    scores, index = _best(flat, topk, score_threshold)
    channel = index // (height * width)
    return Peaks(scores, channel, _cell_xy(index - channel * (height * width), width))


def find_keypoint_peaks(
    heatmap: Tensor, topk: int, kernel: int = 3, score_threshold: float | None = None
) -> tuple[Tensor, Tensor]:
    """The ``topk`` best peaks per keypoint and image.

    Args:
        heatmap: (N, K, h, w) scores in [0, 1].
        topk: Q; fewer if the grid has fewer cells.
        kernel: see :func:`suppress_non_peaks`.
        score_threshold: on the processor, ranks that score no higher for any keypoint are left out
            (smaller Q).

    Returns:
        scores (N, K, Q) and cells (N, K, Q, 2) int64 (x, y).
    """
    width = heatmap.shape[3]
    flat = suppress_non_peaks(heatmap, kernel).flatten(2)  # (N, K, h * w)
    scores, cell = _best(flat, topk, score_threshold)
    return scores, _cell_xy(cell, width)


def _cell_xy(cell: Tensor, width: int) -> Tensor:
    """Flat cells (...) int64 -> (..., 2), (x, y)."""
    y = cell // width
    return torch.stack([cell - y * width, y], -1)  # not `%`, which ONNX has for constants only


def _best(scores: Tensor, topk: int, threshold: float | None) -> tuple[Tensor, Tensor]:
    """Values and indices, (..., P), of the ``topk`` best of the last dimension, best first.

    Ranks that are at most ``threshold`` in all rows are left out: with few objects in an image,
    most of the work on a hundred candidates would be wasted.
    """
    values, index = scores.topk(min(topk, scores.shape[-1]), dim=-1)
    # A recorded graph would keep the number of its first image for all images. A GPU would have to
    # be waited for, which costs more than the work.
    if threshold is not None and not is_recorded() and scores.device.type == "cpu":
        ranks = values.flatten(0, -2).amax(0)  # (P,), descending
        count = int((~(ranks <= threshold)).sum())  # NaN counts: it must not be lost here
        values, index = values[..., :count], index[..., :count]
    return values, index


def is_recorded() -> bool:
    """Whether the operations become a graph: by a trace, ``torch.export`` or ``torch.compile``."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


class ValuesAtCells(Protocol):
    """A prediction that is computed at the cells where it is read, and never as a map."""

    def values_at(self, xy: Tensor) -> Tensor:
        """(N, P, 2) int64 cells (x, y) -> (N, P, C)."""


def values_at(prediction: Tensor | ValuesAtCells, xy: Tensor) -> Tensor:
    """Read a prediction at cells.

    Args:
        prediction: (N, C, h, w) map, or an object that computes values at cells.
        xy: (N, P, 2) int64 cells (x, y), inside the grid.

    Returns:
        (N, P, C) float32.
    """
    if not isinstance(prediction, Tensor):
        return prediction.values_at(xy).float()
    flat = xy[..., 1] * prediction.shape[3] + xy[..., 0]  # (N, P)
    index = flat[:, None, :].expand(-1, prediction.shape[1], -1)  # (N, C, P)
    return prediction.flatten(2).gather(2, index).transpose(1, 2).float()


def decode_boxes(center_xy: Tensor, wh: Tensor) -> Tensor:
    """Boxes around centres.

    Args:
        center_xy: (..., 2) sub-cell centres (x, y).
        wh: (..., 2) width and height; negative sizes count as 0.

    Returns:
        (..., 4) xyxy, same unit.
    """
    half = wh.clamp(min=0) / 2
    return torch.cat([center_xy - half, center_xy + half], -1)


def boxes_from_ltrb(cell_xy: Tensor, distances: Tensor) -> Tensor:
    """Boxes from the distances between cell centres and box sides.

    Args:
        cell_xy: (..., 2) int64 cells (x, y); a cell's centre is at + 0.5.
        distances: (..., 4) to the left, top, right and bottom side.

    Returns:
        (..., 4) xyxy, same unit.
    """
    center = cell_xy + 0.5
    return torch.cat([center - distances[..., :2], center + distances[..., 2:]], -1)


def keypoint_hull(keypoints_xy: Tensor, margin: float = 0.1) -> Tensor:
    """The box around an object's keypoints, for networks without a box head.

    Args:
        keypoints_xy: (..., K, 2).
        margin: part of each side that is added on either end: a body reaches beyond its keypoints.

    Returns:
        (..., 4) xyxy, same unit.
    """
    low, high = keypoints_xy.amin(-2), keypoints_xy.amax(-2)
    grow = (high - low) * margin
    return torch.cat([low - grow, high + grow], -1)


def match_keypoints(
    regressed_xy: Tensor,
    peak_xy: Tensor,
    peak_scores: Tensor,
    boxes: Tensor,
    *,
    score_threshold: float,
    max_distance: float,
    nearest_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """Move regressed keypoints to the heatmap peaks that explain them (CenterNet, section 4.2).

    A keypoint takes one of its peaks that score above ``score_threshold``, lie inside the object's
    box and within ``max_distance`` x the box's longer side: that with the largest score x
    exp(-(d / (:data:`DISTANCE_DECAY` x longer side))^2), d the distance. Without any it stays where
    it was regressed. With ``nearest_first`` it is the nearest peak above the threshold, and if that
    lies outside of the box no other is tried: CenterNet's code.

    Args:
        regressed_xy: (N, P, K, 2).
        peak_xy: (N, K, Q, 2) sub-cell peak positions.
        peak_scores: (N, K, Q).
        boxes: (N, P, 4) xyxy.
        score_threshold: least peak score.
        max_distance: part of the box's longer side.
        nearest_first: choose the nearest peak, before looking at the box.

    Returns:
        keypoints (N, P, K, 2) and matched (N, P, K) bool.
    """
    if peak_scores.shape[-1] == 0 or regressed_xy.shape[1] == 0:
        return regressed_xy, torch.zeros_like(regressed_xy[..., 0], dtype=torch.bool)
    # x and y apart: reductions over a last dimension of 2 would take most of the time.
    x, y = peak_xy[:, None].unbind(-1)  # (N, 1, K, Q)
    x0, y0, x1, y1 = boxes[:, :, None, None].unbind(-1)  # (N, P, 1, 1)
    keypoint_x, keypoint_y = regressed_xy[..., None, :].unbind(-1)  # (N, P, K, 1)
    squared = (keypoint_x - x).square() + (keypoint_y - y).square()  # (N, P, K, Q)
    side = torch.maximum(x1 - x0, y1 - y0)  # (N, P, 1, 1)
    reach = max_distance * side
    allowed = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1) & (squared <= reach.square())
    strong = (peak_scores > score_threshold)[:, None]  # (N, 1, K, Q)
    allowed = allowed & strong
    if nearest_first:
        candidates, cost = strong, squared
    else:  # minus the logarithm of what is to be largest
        decay = (DISTANCE_DECAY * side).square().clamp(min=1e-6)
        candidates, cost = allowed, squared / decay - peak_scores.clamp(min=1e-6).log()[:, None]
    least, index = cost.masked_fill(~candidates, float("inf")).min(-1)  # (N, P, K)
    matched = least.isfinite() & allowed.gather(-1, index[..., None]).squeeze(-1)
    peaks = peak_xy[:, None].expand(-1, regressed_xy.shape[1], -1, -1, -1)
    found = peaks.gather(3, index[..., None, None].expand(*index.shape, 1, 2)).squeeze(3)
    return torch.where(matched[..., None], found, regressed_xy), matched


def weigh_keypoints(
    heatmap: Tensor,
    regressed_xy: Tensor,
    boxes: Tensor,
    found: Tensor,
    sides: Tensor,
    longest: float,
    decay: float = 0.3,
) -> tuple[Tensor, Tensor]:
    """Choose each keypoint's cell by its score and its distance at once, as MoveNet does.

    Of the cells in the object's box it is the one with the largest heatmap value times
    exp(-d^2 / (``decay`` side)), d the distance to the regressed keypoint. As in MoveNet's graph,
    its score is the largest that any of the objects gives this cell. MoveNet looks at the whole
    map; here at a window around the regressed keypoint, outside of which the factor is below 0.001.

    Args:
        heatmap: (N, K, h, w) scores in [0, 1].
        regressed_xy: (N, P, K, 2) stride units.
        boxes: (N, P, 4) xyxy, stride units.
        found: (N, P) bool, False for ranks that only fill up the batch.
        sides: (N,), the shorter side of each image, stride units.
        longest: the largest of them, on which the windows' size depends.
        decay: see above.

    Returns:
        cells (N, P, K, 2) int64 (x, y) and weighted scores (N, P, K), 0 where the box has no cell.
    """
    height, width = heatmap.shape[2:]
    if regressed_xy.shape[1] == 0:
        return regressed_xy.long(), regressed_xy[..., 0]
    scale = -decay * sides[:, None, None, None]
    reach = math.ceil(math.sqrt(math.log(1000) * decay * longest))
    steps = torch.arange(-reach, reach + 1, device=heatmap.device)
    low = boxes[..., None, :2].clamp(min=0)  # (N, P, 1, 2)
    right, bottom = boxes[..., None, 2:].unbind(-1)
    high = torch.stack([right.clamp(max=width), bottom.clamp(max=height)], -1)
    middle = torch.minimum(regressed_xy.maximum(low), high).round().long()
    cells, weights = [], []
    for axis in (0, 1):
        cell = middle[..., axis, None] + steps  # (N, P, K, S)
        inside = (cell >= low[..., axis, None]) & (cell < high[..., axis, None])
        squared = (cell - regressed_xy[..., axis, None]).square()
        weights.append(torch.exp(squared / scale) * inside)
        cells.append(cell.clamp(0, heatmap.shape[3 - axis] - 1))
    index = (cells[1][..., None] * width + cells[0][..., None, :]).transpose(
        1, 2
    )  # (N, K, P, S, S)
    values = heatmap.flatten(2).gather(2, index.flatten(2)).view(index.shape).transpose(1, 2)
    weighted = values * weights[1][..., None] * weights[0][..., None, :]
    best = weighted.flatten(3).argmax(-1, keepdim=True)  # (N, P, K, 1)
    chosen = index.transpose(1, 2).flatten(3).gather(3, best).squeeze(3)
    xy = _cell_xy(chosen, width)
    # What each of the objects gives to the cells that each of them chose: (N, P, P, K).
    other = xy[:, :, None]
    inside = (other >= low[:, None]) & (other < high[:, None])
    squared = (other - regressed_xy[:, None]).square().sum(-1)
    given = torch.exp(squared / scale) * inside.all(-1) * found[:, None, :, None]
    # Without a cell in its own box an object has none, whatever others give to the window's first.
    own = weighted.flatten(3).gather(3, best).squeeze(3) > 0
    scores = values.flatten(3).gather(3, best).squeeze(3) * given.amax(2) * own
    return xy, scores


def sample_keypoint_scores(heatmap: Tensor, keypoints_xy: Tensor) -> Tensor:
    """Keypoint confidence: the keypoint's heatmap at the cell that the keypoint lies in.

    Args:
        heatmap: (N, K, h, w) scores in [0, 1].
        keypoints_xy: (N, P, K, 2) stride units; keypoints outside the grid score 0.

    Returns:
        (N, P, K) in [0, 1].
    """
    height, width = heatmap.shape[2:]
    cell = keypoints_xy.floor()
    inside = (cell >= 0).all(-1) & (cell[..., 0] < width) & (cell[..., 1] < height)
    flat = (cell[..., 1].clamp(0, height - 1) * width + cell[..., 0].clamp(0, width - 1)).long()
    scores = heatmap.flatten(2).gather(2, flat.transpose(1, 2)).transpose(1, 2)  # (N, P, K)
    return scores * inside
