"""From a painted canvas to COCO annotations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from d2_multitask.data.labels.masks import encode as encode_mask
from synthetic.people.canvas import Canvas
from synthetic.people.figure import Figure
from synthetic.people.labels import (
    COVERED,
    KEYPOINT_NAMES,
    NOT_LABELLED,
    PART_ID,
    PARTS_OF_JOINT,
    PERSON_CATEGORY_ID,
    VISIBLE,
)

_SURFACES = frozenset((PART_ID["head"], PART_ID["torso"]))


def tight_box(mask: np.ndarray) -> list[int]:
    """COCO's box [x, y, width, height] in pixels about the True pixels of a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def label_joints(canvas: Canvas, figure: Figure, owner: int) -> list[float]:
    """The ``keypoints`` entry of a person: 17 times x, y, v.

    x and y are pixel indices with two decimals (the centre of the first pixel is 0), as in COCO.
    v is 2 where the person's own surface is seen at the joint, 1 where something covers it (another
    person, a thing, another part of the body, or the back of the head), and 0, with x = y = 0,
    outside of the image.
    """
    away = figure.turned_away()
    keypoints: list[float] = []
    for name, (x, y), own_parts in zip(
        KEYPOINT_NAMES, figure.joints(), PARTS_OF_JOINT, strict=True
    ):
        x, y = round(x - 0.5, 2), round(y - 0.5, 2)
        if not (0.0 <= x <= canvas.width - 1 and 0.0 <= y <= canvas.height - 1):
            keypoints += [0.0, 0.0, NOT_LABELLED]
            continue
        row, column = math.floor(y + 0.5), math.floor(x + 0.5)
        part = int(canvas.part[row, column])
        seen = int(canvas.owner[row, column]) == owner and part in own_parts
        if name in away and part in _SURFACES:
            seen = False
        keypoints += [x, y, VISIBLE if seen else COVERED]
    return keypoints


def person_annotation(
    canvas: Canvas, figure: Figure, owner: int, depth_order: int, silhouette: int
) -> dict[str, Any]:
    """COCO annotation of one person, without ``id`` and ``image_id``.

    Args:
        canvas: the finished canvas.
        figure: the person.
        owner: its label on the canvas; it must own a pixel there.
        depth_order: 0 for the nearest person of the image, 1 for the next, ...
        silhouette: number of pixels that it covered before nearer things were painted.
    """
    mask = canvas.owner == owner
    area = int(np.count_nonzero(mask))
    keypoints = label_joints(canvas, figure, owner)
    return {
        "category_id": PERSON_CATEGORY_ID,
        "bbox": tight_box(mask),
        "area": area,
        "segmentation": encode_mask(mask),
        "iscrowd": 0,
        "keypoints": keypoints,
        "num_keypoints": sum(1 for v in keypoints[2::3] if v > NOT_LABELLED),
        "depth_order": depth_order,
        "visible_fraction": round(area / silhouette, 3),
    }


def crowd_annotation(region: np.ndarray, depth_order: int) -> dict[str, Any]:
    """COCO annotation of a crowd, given as the bool mask (H, W) of its region."""
    return {
        "category_id": PERSON_CATEGORY_ID,
        "bbox": tight_box(region),
        "area": int(np.count_nonzero(region)),
        "segmentation": encode_mask(region),
        "iscrowd": 1,
        "keypoints": [0] * (3 * len(KEYPOINT_NAMES)),
        "num_keypoints": 0,
        "depth_order": depth_order,
        "visible_fraction": 1.0,
    }
