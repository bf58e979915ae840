"""COCO persons: boxes, masks and joints of ``person_keypoints_*.json``, and the map that follows.

The semantic map (person, background) is derived from the masks when an image is loaded; crowds are
ignored.
"""

from __future__ import annotations

import os

from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_FLIP_MAP,
    COCO_PERSON_KEYPOINT_NAMES,
    KEYPOINT_CONNECTION_RULES,
)

from d2_multitask.data.datasets.coco import BACKGROUND, IGNORE_LABEL, register_coco_format

COCO_PERSON_METADATA = {
    "thing_classes": ["person"],
    "thing_dataset_id_to_contiguous_id": {1: 0},
    "stuff_classes": [BACKGROUND, "person"],
    "ignore_label": IGNORE_LABEL,
    "keypoint_names": list(COCO_PERSON_KEYPOINT_NAMES),
    "keypoint_flip_map": list(COCO_PERSON_KEYPOINT_FLIP_MAP),
    "keypoint_connection_rules": list(KEYPOINT_CONNECTION_RULES),
}
"""Known before any file is read: COCO's person category with its 17 joints."""


def register_coco_people(root: str) -> None:
    """Register ``coco_person_2017_train`` and ``coco_person_2017_val`` below ``root``.

    Args:
        root: the folder that holds ``coco/annotations``, ``coco/train2017`` and ``coco/val2017``.
    """
    for split in ("train", "val"):
        register_coco_format(
            f"coco_person_2017_{split}",
            os.path.join(root, "coco", "annotations", f"person_keypoints_{split}2017.json"),
            os.path.join(root, "coco", f"{split}2017"),
            metadata=COCO_PERSON_METADATA,
        )


def register_synthetic_people(root: str) -> None:
    """Register ``synthetic_people_train`` and ``synthetic_people_val`` below ``root``.

    The drawn people have COCO's joints and category; their semantic maps are files.
    """
    for split in ("train", "val"):
        folder = os.path.join(root, "synthetic_people", split)
        json_file = os.path.join(root, "synthetic_people", "annotations", f"instances_{split}.json")
        register_coco_format(
            f"synthetic_people_{split}",
            json_file,
            os.path.join(folder, "images"),
            sem_seg_root=os.path.join(folder, "sem_seg"),
            metadata=COCO_PERSON_METADATA,
        )
