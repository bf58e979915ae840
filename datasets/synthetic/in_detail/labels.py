"""What the file says about classes and parts, and which of them are drawn."""

from __future__ import annotations

from typing import Any

from d2_multitask.data.datasets.pascal_in_detail.names import (
    ANIMAL_CLASSES,
    BACKGROUND_CLASSES,
    CATEGORY_IDS,
    PART_CLASS_OF_NAME,
    SILHOUETTE_PART_ID,
    THING_CATEGORY_IDS,
)
from synthetic.people.labels import PART_NAMES as FIGURE_PART_NAMES

PART_NAMES: tuple[str, ...] = tuple(
    """backside beak bliplate body bwheel cap cbackside chainwheel cleftrightside coach croofside
    door engine fliplate frame framescreen frontside fwheel hair handlebar head headlight hfrontside
    hleftrightside hroofside lbhopa lbleg lblleg lbuleg lear lebrow leftmirror leftside leye lfhopa
    lfleg lflleg lfoot lhand lhorn llarm lleg llleg luarm luleg lwing mouth muzzle neck nose plant
    pot rbhopa rbleg rblleg rbuleg rear rebrow reye rfhopa rfleg rflleg rfoot rfuleg rhand rhorn
    rightmirror rightside rlarm rleg rlleg roofside ruarm ruleg rwing saddle stern tail torso wheel
    window""".split()
)
"""Names of the parts in the order of their ids, which start at 1."""

PART_ID: dict[str, int] = {name: number for number, name in enumerate(PART_NAMES, start=1)}

DRAWN_PARTS: dict[str, tuple[str, ...]] = {
    "person": tuple(PART_CLASS_OF_NAME),
    "bottle": ("body", "cap"),
    "car": ("door", "headlight", "leftside", "rightside", "wheel", "window"),
    "chair": (),
    "dog": ("head", "lbleg", "lear", "lfleg", "muzzle", "neck", "rbleg", "rear", "rfleg", "tail")
    + ("torso",),
    "pottedplant": ("plant", "pot"),
    "tvmonitor": ("framescreen", "frame"),
}
"""Parts of the classes of things that are drawn; none = one silhouette (part 255)."""

DRAWN_STUFF: tuple[str, ...] = (
    "building",
    "cabinet",
    "curtain",
    "door",
    "floor",
    "grass",
    "ground",
    "mountain",
    "road",
    "sidewalk",
    "sky",
    "tree",
    "wall",
    "water",
    "window",
)
STUFF_CODE: dict[str, int] = {name: code for code, name in enumerate(DRAWN_STUFF, start=1)}
"""Value of ``Canvas.part`` where nobody is: which stuff is seen; 0 = none of the classes."""

_LIMB_PARTS = {
    "upper_arm": "uarm",
    "lower_arm": "larm",
    "hand": "hand",
    "upper_leg": "uleg",
    "lower_leg": "lleg",
    "foot": "foot",
}


def _part_name(figure_part: str) -> str:
    """The dataset's name of a part of a drawn figure."""
    side, _, limb = figure_part.partition("_")
    return side[0] + _LIMB_PARTS[limb] if limb else figure_part


FIGURE_PART_ID: dict[int, int] = {
    code: PART_ID[_part_name(name)] for code, name in enumerate(FIGURE_PART_NAMES) if code
}
"""Part code of a drawn figure -> the file's part id."""


def silhouette_part(class_name: str) -> int:
    """The part with which a thing of a class without parts is painted."""
    if DRAWN_PARTS[class_name]:
        raise ValueError(f"{class_name!r} has parts: {DRAWN_PARTS[class_name]}")
    return SILHOUETTE_PART_ID


def category_entries() -> list[dict[str, Any]]:
    """The file's ``categories``: all 59, in its own order."""
    return [
        {
            "category_id": category_id,
            "name": name,
            "supercategory": _supercategory(name),
            "onlysemantic": int(name not in THING_CATEGORY_IDS),
            "parts": sorted(PART_ID[part] for part in DRAWN_PARTS.get(name, ())),
        }
        for name, category_id in CATEGORY_IDS.items()
    ]


def part_entries() -> list[dict[str, Any]]:
    """The file's ``parts``; the silhouette is not among them."""
    head = {name for name, index in PART_CLASS_OF_NAME.items() if index == 1}
    left_arm = {"luarm", "llarm", "lhand"}
    return [
        {
            "part_id": number,
            "name": name,
            "superpart": "head" if name in head else "leftarm" if name in left_arm else "none",
        }
        for name, number in PART_ID.items()
    ]


def _supercategory(name: str) -> str:
    if name in BACKGROUND_CLASSES:
        return "background"
    return "animal" if name in ANIMAL_CLASSES else "object"
