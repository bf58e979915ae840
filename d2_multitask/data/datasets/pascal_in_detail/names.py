"""Names and numbers of PASCAL in Detail: classes, human parts, keypoints.

Contiguous ids follow the dataset's own order: the 20 VOC classes, which have instances, come
first, so that a thing's id is also its id in the semantic maps; then the 39 classes that are
labelled by one mask per image. Raw category ids (up to 459) do not fit into 8 bits and are used
nowhere but in the files.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from d2_multitask.data.labels.base import IGNORE_VALUE

PERSON = "person"
SILHOUETTE_PART_ID = 255
"""``part_id`` of a mask that covers a whole object without part labels."""

# fmt: off
THING_CATEGORY_IDS = MappingProxyType({
    "aeroplane": 2, "bicycle": 23, "bird": 25, "boat": 31, "bottle": 34, "bus": 45, "car": 59,
    "cat": 65, "chair": 72, "cow": 98, "diningtable": 397, "dog": 113, "horse": 207,
    "motorbike": 258, "person": 284, "pottedplant": 308, "sheep": 347, "sofa": 368, "train": 416,
    "tvmonitor": 427,
})
"""Name -> category id of the 20 classes with instances, in contiguous order."""

STUFF_CATEGORY_IDS = MappingProxyType({
    "bag": 9, "bed": 18, "bench": 22, "book": 33, "building": 44, "cabinet": 46, "ceiling": 68,
    "cloth": 80, "computer": 85, "cup": 104, "door": 115, "fence": 144, "floor": 158, "flower": 159,
    "food": 162, "grass": 187, "ground": 189, "keyboard": 220, "light": 232, "mountain": 259,
    "mouse": 260, "curtain": 105, "platform": 296, "sign": 355, "plate": 295, "road": 324,
    "rock": 326, "shelves": 349, "sidewalk": 354, "sky": 360, "snow": 366, "bedclothes": 19,
    "track": 415, "tree": 420, "truck": 424, "wall": 440, "water": 445, "window": 454, "wood": 458,
})
# fmt: on
"""Name -> category id of the 39 classes without instances, in contiguous order after the 20."""

CATEGORY_IDS = MappingProxyType({**THING_CATEGORY_IDS, **STUFF_CATEGORY_IDS})
THING_CLASSES = tuple(THING_CATEGORY_IDS)
STUFF_CLASSES = tuple(CATEGORY_IDS)
"""All 59 semantic classes; index = id in the semantic maps."""

# What other releases call them.
CLASS_ALIASES = MappingProxyType({"table": "diningtable", "bedcloth": "bedclothes"})

BACKGROUND_CLASSES = frozenset(
    ("ceiling", "floor", "grass", "ground", "platform", "road", "sidewalk", "sky", "snow", "tree")
    + ("water",)
)
ANIMAL_CLASSES = frozenset(("bird", "cat", "cow", "dog", "horse", "sheep"))

# fmt: off
PART_CLASSES = (
    "background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg",
)
# fmt: on
"""The seven classes of human part segmentation; index = id in the part maps.

The grouping is that of ASTMT (Maninis et al., CVPR 2019) and of the work that follows it.
"""

_PARTS_OF_CLASS = (
    (),
    ("head", "hair", "lear", "rear", "lebrow", "rebrow", "leye", "reye", "mouth", "nose"),
    ("torso", "neck"),
    ("luarm", "ruarm"),
    ("llarm", "rlarm", "lhand", "rhand"),
    ("luleg", "ruleg"),
    ("llleg", "rlleg", "lfoot", "rfoot"),
)
PART_CLASS_OF_NAME = MappingProxyType(
    {name: index for index, names in enumerate(_PARTS_OF_CLASS) for name in names}
)
"""The person's 24 part names -> 1..6. Ids differ between releases, names do not."""

# fmt: off
KEYPOINT_NAMES = (
    "head", "neck", "left_shoulder", "left_elbow", "left_wrist", "left_hip", "left_knee",
    "left_ankle", "right_shoulder", "right_elbow", "right_wrist", "right_hip", "right_knee",
    "right_ankle",
)
# fmt: on
"""The 14 keypoints as the file orders them; left is the person's own left.

The official API's name list has wrist and hip exchanged (4 and 5); its skeleton drawing and the
data have not.
"""
NUM_KEYPOINTS = len(KEYPOINT_NAMES)

KEYPOINT_FLIP_MAP = tuple(
    (name, name.replace("left_", "right_")) for name in KEYPOINT_NAMES if name.startswith("left_")
)
_EDGES = ((0, 1), (1, 2), (2, 3), (3, 4), (2, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10))
_EDGES += ((8, 11), (11, 12), (12, 13))
_CENTER_COLOR, _LEFT_COLOR, _RIGHT_COLOR = (255, 215, 64), (90, 235, 255), (255, 150, 30)


def _edge_color(edge: tuple[int, int]) -> tuple[int, int, int]:
    if edge == (0, 1):
        return _CENTER_COLOR
    return _LEFT_COLOR if edge[1] < 8 else _RIGHT_COLOR


KEYPOINT_CONNECTION_RULES = tuple(
    (KEYPOINT_NAMES[a], KEYPOINT_NAMES[b], _edge_color((a, b))) for a, b in _EDGES
)
_ARM_LEG_SIGMAS = (0.079, 0.072, 0.062, 0.107, 0.087, 0.089)
KEYPOINT_OKS_SIGMAS = (0.079, 0.079, *_ARM_LEG_SIGMAS, *_ARM_LEG_SIGMAS)
"""COCO's tolerances for the keypoints that COCO has; head and neck as CrowdPose takes them.

The official evaluation's 0.5 for every keypoint lets random keypoints reach an AP of 0.47.
"""


def pascal_in_detail_metadata(person_only: bool = False) -> dict[str, Any]:
    """Metadata for Detectron2's catalogue.

    Args:
        person_only: the only thing class is "person"; everything else stays.
    """
    things = [PERSON] if person_only else list(THING_CLASSES)
    return {
        "thing_classes": things,
        "thing_dataset_id_to_contiguous_id": {CATEGORY_IDS[n]: i for i, n in enumerate(things)},
        "stuff_classes": list(STUFF_CLASSES),
        "stuff_dataset_id_to_contiguous_id": {
            category_id: index for index, category_id in enumerate(CATEGORY_IDS.values())
        },
        "part_classes": list(PART_CLASSES),
        "keypoint_names": list(KEYPOINT_NAMES),
        "keypoint_flip_map": list(KEYPOINT_FLIP_MAP),
        "keypoint_connection_rules": list(KEYPOINT_CONNECTION_RULES),
        "keypoint_oks_sigmas": list(KEYPOINT_OKS_SIGMAS),
        "ignore_label": IGNORE_VALUE,
    }
