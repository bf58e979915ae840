"""A made-up file of one image in the dataset's layout; small enough to be checked by eye.

10 x 6 pixels. Grass and sky; two people, the left one in columns 2-5, the right one in columns 5-8,
both in rows 1-5; column 5 belongs to both.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

IMAGE_ID = 2008000001
HEIGHT, WIDTH = 6, 10
NOWHERE = [0, 0, 0]


def _rle(counts: str) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def _mask(number: int, category: int, crowd: int, area: int, box: list[int], counts: str, parts=()):
    return {
        "id": number,
        "image_id": IMAGE_ID,
        "category_id": category,
        "iscrowd": crowd,
        "area": area,
        "bbox": box,
        "segmentation": _rle(counts),
        "parts": [{"part_id": part, "segmentation": _rle(mask)} for part, mask in parts],
    }


_LEFT_JOINTS = [3.5, 1.2, 1, 3.5, 2.1, 1, 4.6, 2.3, 1, 5.2, 3.4, 1, *NOWHERE * 4, 2.4, 2.3, 1]
_RIGHT_JOINTS = [6.5, 1.2, 1, 6.5, 2.1, 1, 7.6, 2.3, 1, *NOWHERE * 5, 5.4, 2.3, 2]

_CONTENT = {
    "info": {"description": "miniature", "version": "3.0", "year": 2017},
    "images": [
        {
            "image_id": IMAGE_ID,
            "file_name": "2008_000001.jpg",
            "width": WIDTH,
            "height": HEIGHT,
            "phase": "train",
            "date_captured": "31-May-2015 17:44:04",
        }
    ],
    "categories": [
        {
            "category_id": 284,
            "name": "person",
            "supercategory": "object",
            "onlysemantic": 0,
            "parts": [21, 79],
        },
        {
            "category_id": 187,
            "name": "grass",
            "supercategory": "background",
            "onlysemantic": 1,
            "parts": [],
        },
        {
            "category_id": 360,
            "name": "sky",
            "supercategory": "background",
            "onlysemantic": 1,
            "parts": [],
        },
    ],
    "parts": [
        {"part_id": 21, "name": "head", "superpart": "head"},
        {"part_id": 79, "name": "torso", "superpart": "none"},
    ],
    "annos_segmentation": [
        _mask(1, 187, 1, 15, [0, 1, 10, 5], "1510Z10"),
        _mask(2, 360, 1, 10, [0, 0, 10, 1], "015000000000000000000"),
        _mask(3, 284, 0, 20, [2, 1, 4, 5], "=5100000g0", ((21, "c0150m0"), (79, ">2400000f0"))),
        _mask(4, 284, 0, 20, [5, 1, 4, 5], "o051000005", ((21, "U1150;"),)),
    ],
    "annos_joints": [
        {
            "person_id": 1,
            "image_id": IMAGE_ID,
            "category_id": 284,
            "bbox": [2, 1, 4, 5],
            "num_keypoints": 5,
            "keypoints": _LEFT_JOINTS + NOWHERE * 5,
        },
        {
            "person_id": 2,
            "image_id": IMAGE_ID,
            "category_id": 284,
            "bbox": [5, 1, 4, 5],
            "num_keypoints": 4,
            "keypoints": _RIGHT_JOINTS + NOWHERE * 5,
        },
    ],
    "annos_boundary": [{"image_id": IMAGE_ID, "boundary_mask": _rle("=1500004c0")}],
    "annos_occlusion": [
        {
            "image_id": IMAGE_ID,
            "imsize": [HEIGHT, WIDTH],
            "ne": 1,
            "edges": {"indices": [[31, 32, 33, 34, 35]], "edgelabel": [2]},
        }
    ],
}


def miniature() -> dict[str, Any]:
    """A fresh copy of the file's content, to be changed at will."""
    return copy.deepcopy(_CONTENT)


def write(content: dict[str, Any], folder: Path, name: str = "trainval_withkeypoints.json") -> str:
    """Write a content; returns the path."""
    path = folder / name
    path.write_text(json.dumps(content))
    return str(path)
