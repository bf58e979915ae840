"""The names and numbers of the labels: COCO's joints, the body parts, and their relation."""

from __future__ import annotations

from typing import Any

KEYPOINT_NAMES: tuple[str, ...] = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""COCO's joints in COCO's order; left and right are the subject's."""

SKELETON: tuple[tuple[int, int], ...] = (
    (16, 14),
    (14, 12),
    (17, 15),
    (15, 13),
    (12, 13),
    (6, 12),
    (7, 13),
    (6, 7),
    (6, 8),
    (7, 9),
    (8, 10),
    (9, 11),
    (2, 3),
    (1, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
    (5, 7),
)
"""COCO's limbs as pairs of joint numbers that start at 1."""

PART_NAMES: tuple[str, ...] = (
    "background",
    "head",
    "torso",
    "left_upper_arm",
    "right_upper_arm",
    "left_lower_arm",
    "right_lower_arm",
    "left_hand",
    "right_hand",
    "left_upper_leg",
    "right_upper_leg",
    "left_lower_leg",
    "right_lower_leg",
    "left_foot",
    "right_foot",
)
"""Name of each value of the part maps; hair and hat belong to the head, the neck to the torso."""

PART_ID: dict[str, int] = {name: index for index, name in enumerate(PART_NAMES)}

SEM_SEG_NAMES: tuple[str, ...] = ("background", "person")
IGNORE_VALUE = 255
"""Value of the semantic and part maps where a crowd is annotated as one region."""

PERSON_CATEGORY_ID = 1

VISIBLE, COVERED, NOT_LABELLED = 2, 1, 0
"""COCO's visibility of a joint."""


def _own_parts(joint: str) -> frozenset[int]:
    """Ids of the parts whose surface shows the joint."""
    side, _, name = joint.partition("_")
    names = {
        "shoulder": ("torso", f"{side}_upper_arm"),
        "elbow": (f"{side}_upper_arm", f"{side}_lower_arm"),
        "wrist": (f"{side}_lower_arm", f"{side}_hand"),
        "hip": ("torso", f"{side}_upper_leg"),
        "knee": (f"{side}_upper_leg", f"{side}_lower_leg"),
        "ankle": (f"{side}_lower_leg", f"{side}_foot"),
    }.get(name, ("head",))
    return frozenset(PART_ID[part] for part in names)


PARTS_OF_JOINT: tuple[frozenset[int], ...] = tuple(_own_parts(name) for name in KEYPOINT_NAMES)
"""For each joint, the ids of the parts on which it lies: any other part on top covers it."""


def person_category() -> dict[str, Any]:
    """The entry of a COCO file's ``categories``."""
    return {
        "id": PERSON_CATEGORY_ID,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(KEYPOINT_NAMES),
        "skeleton": [list(pair) for pair in SKELETON],
    }
