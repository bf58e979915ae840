"""From a synthetic scene to the entries of the annotation file, without the ids.

Only masks, joints and contours of what is drawn are used; the rules are those of the dataset: one
mask an image of each stuff class, parts inside of their instance, one decimal for joints.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from d2_multitask.data.datasets.pascal_in_detail.names import CATEGORY_IDS, KEYPOINT_NAMES
from synthetic.in_detail.contours import boundary_mask, occlusion_fragments
from synthetic.in_detail.labels import (
    DRAWN_STUFF,
    FIGURE_PART_ID,
    PART_ID,
    STUFF_CODE,
)
from synthetic.in_detail.scene import PERSON, DetailScene
from synthetic.people.annotate import encode_mask, tight_box
from synthetic.people.figure import Figure

VISIBLE, OCCLUDED, NOT_LABELLED = 1, 2, 0
"""The file's visibility of a joint: the reverse of COCO's."""

# Small parts are discs about a point of the skeleton: name, point, radius in radii of the skull,
# and the drawn part on which they lie. The rest of the head stays "head".
_DISCS: tuple[tuple[str, str, float, str], ...] = (
    ("neck", "neck", 0.75, "torso"),
    ("lear", "left_ear", 0.3, "head"),
    ("rear", "right_ear", 0.3, "head"),
    ("leye", "left_eye", 0.2, "head"),
    ("reye", "right_eye", 0.2, "head"),
    ("nose", "nose", 0.22, "head"),
)
# Likewise, about a point given in the axes of the head.
_FACE_DISCS: tuple[tuple[str, tuple[float, float, float], float], ...] = (
    ("lebrow", (0.38, 0.38, 0.85), 0.16),
    ("rebrow", (-0.38, 0.38, 0.85), 0.16),
    ("mouth", (0.0, -0.62, 0.86), 0.26),
    ("hair", (0.0, 0.7, -0.2), 0.62),
)
_LEAST_PART = 4  # pixels
_TOP_OF_HEAD = 0.8  # radii of the skull above its middle


def stuff_annotations(scene: DetailScene) -> list[dict[str, Any]]:
    """One entry for each stuff class that is seen."""
    entries = []
    for name in DRAWN_STUFF:
        mask = (scene.owner < 0) & (scene.part == STUFF_CODE[name])
        if mask.any():
            entries.append(_entry(name, mask, [], crowd=1))
    return entries


def instance_annotations(scene: DetailScene) -> list[dict[str, Any]]:
    """One entry for each instance, far to near."""
    entries = []
    for owner, (class_name, figure) in enumerate(scene.instances):
        mask = scene.owner == owner
        parts = _thing_parts(scene, mask) if figure is None else person_parts(scene, mask, figure)
        entries.append(_entry(class_name, mask, parts, crowd=0))
    return entries


def joint_annotations(scene: DetailScene) -> list[dict[str, Any]]:
    """One entry for each person, without ``person_id`` and ``image_id``."""
    entries = []
    for owner, (_, figure) in enumerate(scene.instances):
        if figure is None:
            continue
        mask = scene.owner == owner
        keypoints = label_joints(mask, figure)
        entries.append(
            {
                "category_id": CATEGORY_IDS[PERSON],
                "bbox": tight_box(mask),
                "num_keypoints": sum(v != NOT_LABELLED for v in keypoints[2::3]),
                "keypoints": keypoints,
            }
        )
    return entries


def edge_annotations(scene: DetailScene) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of the boundary and of the occlusion, without ``image_id``."""
    chains, labels = occlusion_fragments(scene.owner)
    boundary = {"boundary_mask": encode_mask(boundary_mask(scene.owner))}
    occlusion = {
        "imsize": list(scene.owner.shape),
        "ne": len(chains),
        "edges": {"indices": [chain.tolist() for chain in chains], "edgelabel": labels},
    }
    return boundary, occlusion


def joint_positions(figure: Figure) -> list[tuple[float, float]]:
    """The 14 joints in continuous image coordinates (x, y)."""
    points = dict(figure.skeleton.points)
    up = figure.skeleton.head.y.times(_TOP_OF_HEAD * figure.body.head)
    points["head"] = points["skull"].plus(up)
    return [figure.place.point(points[name]) for name in KEYPOINT_NAMES]


def label_joints(mask: np.ndarray, figure: Figure) -> list[float]:
    """The ``keypoints`` of a person: 14 times x, y, visibility.

    x and y are pixel indices with one decimal (the centre of the first pixel is 0). A joint within
    the person's own mask (H, W) is visible, one that something covers is occluded, one outside of
    the image is not labelled.
    """
    height, width = mask.shape
    keypoints: list[float] = []
    for x, y in joint_positions(figure):
        x, y = round(x - 0.5, 1), round(y - 0.5, 1)
        if not (0.0 <= x <= width - 1 and 0.0 <= y <= height - 1):
            keypoints += [0, 0, NOT_LABELLED]
            continue
        seen = mask[math.floor(y + 0.5), math.floor(x + 0.5)]
        keypoints += [x, y, VISIBLE if seen else OCCLUDED]
    return keypoints


def person_parts(scene: DetailScene, mask: np.ndarray, figure: Figure) -> list[dict[str, Any]]:
    """Parts of a person's mask (H, W), as the figure was drawn, with the small ones cut out."""
    ids = np.zeros(mask.shape, dtype=np.uint8)
    for code, part_id in FIGURE_PART_ID.items():
        ids[mask & (scene.part == code)] = part_id
    y, x = np.indices(mask.shape, dtype=np.float32, sparse=True)
    skull, axes, radius = figure.skeleton.points["skull"], figure.skeleton.head, figure.body.head
    discs = [(name, figure.skeleton.points[at], size, on) for name, at, size, on in _DISCS]
    for name, (right, up, front), size in _FACE_DISCS:
        offset = axes.x.times(right).plus(axes.y, up).plus(axes.z, front)
        discs.append((name, skull.plus(offset, radius), size, "head"))
    order = {"hair": 0, "neck": 1}  # the face is drawn over the hair
    for name, point, size, on in sorted(discs, key=lambda disc: order.get(disc[0], 2)):
        if name not in ("neck", "hair") and point.z < skull.z - 0.1 * radius:
            continue  # on the side of the head that looks away
        center_x, center_y = figure.place.point(point)
        reach = np.float32(size * radius * figure.place.scale)
        dx = x + np.float32(0.5 - center_x)
        dy = y + np.float32(0.5 - center_y)
        disc = (dx * dx + dy * dy < reach * reach) & (ids != 0)
        disc &= mask & (scene.part == _code(on))
        if np.count_nonzero(disc) >= _LEAST_PART:
            ids[disc] = PART_ID[name]
    return _part_masks(ids)


def _code(figure_part: str) -> int:
    part_id = PART_ID[figure_part]
    return next(code for code, known in FIGURE_PART_ID.items() if known == part_id)


def _thing_parts(scene: DetailScene, mask: np.ndarray) -> list[dict[str, Any]]:
    return _part_masks(np.where(mask, scene.part, np.uint8(0)))


def _part_masks(ids: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"part_id": int(part_id), "segmentation": encode_mask(ids == part_id)}
        for part_id in np.unique(ids)
        if part_id
    ]


def _entry(
    class_name: str, mask: np.ndarray, parts: list[dict[str, Any]], crowd: int
) -> dict[str, Any]:
    return {
        "category_id": CATEGORY_IDS[class_name],
        "iscrowd": crowd,
        "area": int(np.count_nonzero(mask)),
        "bbox": tight_box(mask),
        "segmentation": encode_mask(mask),
        "parts": parts,
    }
