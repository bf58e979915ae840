"""Instance masks and panoptic segments from boxes, keypoints and a semantic map, without torch.

Each pixel of a class goes to the object of this class whose limbs are nearest. How the rule was
chosen: docs/evaluation.md, "Instance masks of MCN".

Letters: H x W pixels of the image, n objects, K keypoints, L limbs, h x w cells, M pairs of an
object and a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Sides of a box that are added on either end: limbs reach beyond predicted boxes.
MARGIN = 0.1
# A keypoint with a smaller confidence ends no limb.
LEAST_CONFIDENCE = 0.1
# Distance, in box sides, by which an object of e times the score may be farther away.
SCORE_WEIGHT = 0.05
# Objects compete for square cells, of which the longer side of an image has no more than this.
MOST_CELLS = 128
# Where limbs lie that are not there, in pixels.
FAR = np.float32(1e6)


def instance_masks(
    classes: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    keypoints: np.ndarray | None = None,
    skeleton: Sequence[tuple[int, int]] = (),
    confidence_threshold: float = 0.5,
) -> np.ndarray:
    """Share out the pixels of each class among its objects.

    An object claims the pixels of its class in its box. Where confident objects claim them too, the
    one with the smallest distance has them; an object that is not confident takes pixels from
    no other and has those that are nearer to it than to any confident one. The distance is that to
    the nearest limb between seen keypoints, without any to the axis of the box, in parts of the
    box's side, the root of its area; a higher score makes it shorter.

    Args:
        classes: (H, W) integers, the semantic class of each pixel.
        boxes: (n, 4) xyxy, continuous pixels.
        scores: (n,) in [0, 1].
        labels: (n,) integers, the semantic class of each object.
        keypoints: (n, K, 3) x, y and confidence; ``None`` = only boxes are known.
        skeleton: pairs of keypoints that are joined by a limb.
        confidence_threshold: least score of a confident object.

    Returns:
        (n, H, W) bool; those of confident objects do not overlap.
    """
    height, width = classes.shape
    boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
    step = max(-(-max(height, width) // MOST_CELLS), 1)
    present, place = np.unique(labels, return_inverse=True)
    cells = _any_in_cells(classes == present[:, None, None], step)[place]
    claimed = cells & _in_boxes(boxes, height, width, step)
    confident = np.flatnonzero(scores >= confidence_threshold)
    if len(confident):
        cost = _costs(claimed, confident, step, boxes, scores, _limbs(boxes, keypoints, skeleton))
        # Of equal ones the first has the cell.
        owner = confident[cost[confident].argmin(0)][None]
        nearer = cost < np.take_along_axis(cost, owner, 0)
        np.put_along_axis(nearer, owner, True, 0)
        claimed &= nearer
    pixels = claimed.repeat(step, 1)[:, :height].repeat(step, 2)[:, :, :width]
    return pixels & (classes == labels[:, None, None])


def semantic_ids(
    thing_classes: Sequence[str], stuff_classes: Sequence[str]
) -> tuple[list[int], list[int]]:
    """The semantic class of each object class, and those of no object but "background".

    Args:
        thing_classes: names of the object classes.
        stuff_classes: names of the semantic classes.

    Raises:
        ValueError: an object class is no semantic class.
    """
    missing = [name for name in thing_classes if name not in stuff_classes]
    if missing:
        raise ValueError(
            f"Instance masks: found no semantic class for the object classes {missing[:3]}, "
            f"expected their names among {list(stuff_classes)[:5]}, ..."
        )
    things = [list(stuff_classes).index(name) for name in thing_classes]
    others = (set(range(len(stuff_classes))) - set(things)) - {
        number for number, name in enumerate(stuff_classes) if name == "background"
    }
    return things, sorted(others)


def panoptic_segments(
    classes: np.ndarray,
    masks: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    stuff: Sequence[int],
    confidence_threshold: float = 0.5,
    least_stuff_area: int = 4096,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Objects and stuff as one map, in Detectron2's format of ``panoptic_seg``.

    Args:
        classes: (H, W) integers, the semantic class of each pixel.
        masks: (n, H, W) bool, of :func:`instance_masks`.
        scores: (n,).
        labels: (n,) integers, object classes, which become the ``category_id``.
        stuff: semantic classes that are segments as a whole; neither background nor objects.
        confidence_threshold: least score of an object that becomes a segment.
        least_stuff_area: pixels of the smallest segment of stuff.

    Returns:
        (H, W) int32 of segment ids from 1, 0 where there is none, and a dict a segment: ``id``,
        ``isthing``, ``category_id`` and, of objects, best first, ``score`` and ``instance_id``, the
        object's place; of stuff ``area``.
    """
    ids, segments = np.zeros(classes.shape, np.int32), []
    order = np.argsort(-scores, kind="stable")
    order = order[(scores[order] >= confidence_threshold) & masks[order].any((1, 2))]
    if len(order):
        chosen = masks[order]
        ids = np.where(chosen.any(0), chosen.argmax(0) + 1, 0).astype(np.int32)
    for number, index in enumerate(order.tolist(), start=1):
        segment = {"id": number, "isthing": True, "score": float(scores[index])}
        category = {"category_id": int(labels[index]), "instance_id": index}
        segments.append({**segment, **category})
    for class_id in stuff:
        region = (classes == class_id) & (ids == 0)
        area = int(np.count_nonzero(region))
        if area and area >= least_stuff_area:
            number = len(segments) + 1
            ids[region] = number
            info = {"id": number, "isthing": False, "category_id": class_id, "area": area}
            segments.append(info)
    return ids, segments


def _costs(
    claimed: np.ndarray,
    confident: np.ndarray,
    step: int,
    boxes: np.ndarray,
    scores: np.ndarray,
    limbs: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
    """(n, h, w) float32 by which objects compete for cells; infinite where they claim none."""
    # Cells of one object alone, and those that no confident one claims, need no distance.
    contested = (claimed.sum(0, dtype=np.int32) > 1) & claimed[confident].any(0)
    pairs = np.nonzero(claimed & contested)
    x, y = ((index.astype(np.float32) + 0.5) * step for index in pairs[:0:-1])
    side = (boxes[:, 2:] - boxes[:, :2]).clip(1).prod(1) ** 0.5
    bonus = SCORE_WEIGHT * np.log(scores.clip(1e-3))
    cost = np.where(claimed, np.float32(0), np.float32(np.inf))
    distance = _limb_distance(x, y, pairs[0], *limbs)
    cost[pairs] = distance / side[pairs[0]] - bonus[pairs[0]]
    return cost


def _in_boxes(boxes: np.ndarray, height: int, width: int, step: int) -> np.ndarray:
    """(n, h, w) bool, the cells that touch the enlarged boxes."""
    margin = MARGIN * (boxes[:, 2:] - boxes[:, :2])
    low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
    x, y = (np.arange(0, side, step) for side in (width, height))
    columns = (x + step > low[:, :1]) & (x < high[:, :1])
    rows = (y + step > low[:, 1:]) & (y < high[:, 1:])
    return rows[:, :, None] & columns[:, None, :]


def _any_in_cells(pixels: np.ndarray, step: int) -> np.ndarray:
    """(C, H, W) bool -> (C, h, w) bool: whether a pixel of a cell, ``step`` x ``step``, is true."""
    if step == 1 or not pixels.size:
        return pixels[:, ::step, ::step]
    rows, columns = (np.arange(0, side, step) for side in pixels.shape[1:])
    return np.logical_or.reduceat(np.logical_or.reduceat(pixels, rows, 1), columns, 2)


def _limbs(
    boxes: np.ndarray, keypoints: np.ndarray | None, skeleton: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends of the limbs, (n, L + 1, 2) each, and which there are, (n, L + 1) bool.

    The last is the axis of the box: a rectangle's points that are far from its sides. It is there
    where no other limb is.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (sides - sides.min(1, keepdims=True)) / 2
    axis = (center - half)[:, None], (center + half)[:, None]
    if keypoints is None or not len(skeleton):
        return *axis, np.ones((len(boxes), 1), bool)
    ends = keypoints[:, _with_diagonals(np.asarray(skeleton))].astype(np.float32)  # (n, L, 2, 3)
    seen = (ends[..., 2] > LEAST_CONFIDENCE).all(2)
    first = np.concatenate([ends[:, :, 0, :2], axis[0]], 1)
    second = np.concatenate([ends[:, :, 1, :2], axis[1]], 1)
    return first, second, np.concatenate([seen, ~seen.any(1, keepdims=True)], 1)


def _with_diagonals(skeleton: np.ndarray) -> np.ndarray:
    """(L, 2) limbs, and the diagonals of what four of them enclose: the torso is no ring."""
    joined = np.zeros([skeleton.max() + 1] * 2, np.int64)
    joined[skeleton[:, 0], skeleton[:, 1]] = joined[skeleton[:, 1], skeleton[:, 0]] = 1
    opposite = (joined @ joined >= 2) & (joined == 0)
    return np.concatenate([skeleton, np.argwhere(np.triu(opposite, 1))])


def _limb_distance(
    x: np.ndarray,
    y: np.ndarray,
    objects: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    there: np.ndarray,
) -> np.ndarray:
    """(M,) distance of each point to the nearest limb of its object.

    Args:
        x: (M,).
        y: (M,).
        objects: (M,) the object of each point, ascending.
        first: (n, L, 2), see :func:`_limbs`.
        second: (n, L, 2).
        there: (n, L) bool.
    """
    along = second - first
    scaled = along / np.square(along).sum(2, keepdims=True).clip(1e-6)
    first = np.where(there[..., None], first, FAR)
    # (L, 6, n): a limb's start, direction, and direction over squared length, of each object.
    limbs = np.concatenate([first, along, scaled], 2).transpose(1, 2, 0)
    counts = np.bincount(objects, minlength=len(first))
    nearest = np.full(len(x), np.inf, np.float32)
    for limb in limbs:  # all limbs at once would take L times the memory
        x0, y0, dx, dy, ux, uy = np.repeat(limb, counts, axis=1)
        x0, y0 = x - x0, y - y0
        share = (ux * x0 + uy * y0).clip(0, 1)
        x0 -= share * dx
        y0 -= share * dy
        np.minimum(nearest, x0 * x0 + y0 * y0, out=nearest)
    return np.sqrt(nearest)
