"""Registers the datasets that come with a name. Importing it reads nothing from disk."""

from __future__ import annotations

import os

from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_FLIP_MAP,
    COCO_PERSON_KEYPOINT_NAMES,
    KEYPOINT_CONNECTION_RULES,
)

from d2_multitask.data.datasets.bsds500 import register_bsds500
from d2_multitask.data.datasets.catalog import BACKGROUND
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.datasets.pascal_in_detail import (
    find_files,
    register_detail_layout,
)
from d2_multitask.data.datasets.tiny_imagenet import register_tiny_imagenet
from d2_multitask.data.labels.base import IGNORE_VALUE

COCO_PERSON_METADATA = {
    "thing_classes": ["person"],
    "thing_dataset_id_to_contiguous_id": {1: 0},
    "stuff_classes": [BACKGROUND, "person"],
    "ignore_label": IGNORE_VALUE,
    "keypoint_names": list(COCO_PERSON_KEYPOINT_NAMES),
    "keypoint_flip_map": list(COCO_PERSON_KEYPOINT_FLIP_MAP),
    "keypoint_connection_rules": list(KEYPOINT_CONNECTION_RULES),
}
"""Known before any file is read: COCO's person category with its 17 keypoints."""


def register_coco_people(root: str) -> None:
    """Register ``coco_person_2017_{train,val}`` below ``root/coco``.

    The semantic map (person, background) is derived from the masks; crowds are ignored.
    """
    folder = os.path.join(root, "coco")
    for split in ("train", "val"):
        register_coco_format(
            f"coco_person_2017_{split}",
            os.path.join(folder, "annotations", f"person_keypoints_{split}2017.json"),
            os.path.join(folder, f"{split}2017"),
            metadata=COCO_PERSON_METADATA,
        )


def register_synthetic_people(root: str) -> None:
    """Register ``synthetic_people_{train,val}`` below ``root``; their semantic maps are files."""
    folder = os.path.join(root, "synthetic_people")
    for split in ("train", "val"):
        register_coco_format(
            f"synthetic_people_{split}",
            os.path.join(folder, "annotations", f"instances_{split}.json"),
            os.path.join(folder, split, "images"),
            sem_seg_root=os.path.join(folder, split, "sem_seg"),
            metadata=COCO_PERSON_METADATA,
        )


# As in Detectron2: datasets live in one folder.
_ROOT = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))

register_coco_people(_ROOT)
register_synthetic_people(_ROOT)
register_bsds500(_ROOT)
register_tiny_imagenet(_ROOT)
register_detail_layout("pascal_in_detail", *find_files(_ROOT))
# The synthetic images have the same layout.
register_detail_layout(
    "synthetic_in_detail", *find_files(os.path.join(_ROOT, "synthetic_in_detail"))
)
