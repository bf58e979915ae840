"""What the converters share: command line, images of a folder, a COCO file written at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2_multitask.data.io import IMAGE_SUFFIXES, image_size
from d2_multitask.data.whole_files import write_json

BOX_SHARE = 0.53  # of a box that a person fills: the area without masks, as xtcocotools takes it


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The options of every converter."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--keypoints", nargs="+", default=(), metavar="NAME", help="their names")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    return parser


def images_of(folder: Path) -> list[dict[str, Any]]:
    """COCO's ``images`` of all images below a folder by name; shown sizes, from file headers."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: found no image, expected files such as {folder}/0001.jpg")
    keys = ("id", "file_name", "height", "width")
    rows = ((path.relative_to(folder).as_posix(), *image_size(str(path))) for path in paths)
    return [dict(zip(keys, (i, *row), strict=True)) for i, row in enumerate(rows, 1)]


def as_rows(columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """(n, ...) arrays as n dicts; coordinates to a thousandth of a pixel."""
    values = ((array.round(3) + 0).tolist() for array in columns.values())  # + 0: no "-0.0"
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def write_coco(path: Path, images: Sequence, rows: Sequence, classes: Sequence, pose: Any) -> None:
    """Write images and annotations; ids from 1, the names of keypoints ``pose`` in every class."""
    keypoints = {"keypoints": list(pose), "skeleton": []} if pose else {}
    content = {
        "images": images,
        "annotations": [{"id": i, "iscrowd": 0, **row} for i, row in enumerate(rows, 1)],
        "categories": [{"id": i, "name": str(x), **keypoints} for i, x in enumerate(classes, 1)],
    }
    write_json(path, content)
    print(f"{path}: {len(images)} images, {len(rows)} objects, classes {list(classes)}")
