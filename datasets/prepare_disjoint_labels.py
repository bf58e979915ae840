#!/usr/bin/env python
"""Splits a COCO-format file into three, each of which labels its images for one task only.

    python datasets/prepare_disjoint_labels.py \
        --json datasets/synthetic_people/annotations/instances_train.json \
        --output datasets/synthetic_people_thirds

An image belongs to the third of its id modulo 3: 0 to seg.json, which has no objects, but semantic
maps in the folder sem_seg (0 = background, then the categories in the order of their ids, 255 =
ignored: crowds); 1 to det.json, boxes; 2 to pose.json, keypoints, each with the box whose middle is
the centre that keypoints are learned at. `configs/quick/mcn_thirds.yaml` registers the three.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from d2_multitask.data.datasets.coco_annotations import ObjectReader, as_file_name, flat_keypoints
from d2_multitask.data.datasets.coco_json import check_ids, check_map_names, read_json
from d2_multitask.data.labels.sem_seg import sem_seg_from_annotations
from d2_multitask.data.problems import DATA_REPORT, shown
from d2_multitask.data.whole_files import whole_file
from d2_multitask.exits import exit_code

PARTS = ("seg", "det", "pose")
_BOX_FIELDS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
_LABEL_FIELDS = {"seg": "segmentation", "det": "bbox", "pose": "keypoints"}
_KEPT_FIELDS = {"det": _BOX_FIELDS, "pose": (*_BOX_FIELDS, "keypoints", "num_keypoints")}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", required=True, help="COCO-format file of boxes, keypoints, masks")
    parser.add_argument("--output", type=Path, required=True, help="folder for the three files")
    args = parser.parse_args(arguments)
    return exit_code(lambda: split(args.json, args.output))


def split(json_file: str, output: Path) -> None:
    """Write the three files and the maps.

    Raises:
        ValueError: the file cannot be split, or would be overwritten.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: found the file {output}, expected a folder")
    if Path(json_file).resolve() in [(output / f"{task}.json").resolve() for task in PARTS]:
        raise ValueError(
            f"--output: found {output}, the folder of {json_file}, which would be overwritten; "
            "expected another one"
        )
    content = read_json(json_file)
    check(content, json_file)
    parts = {task: third(content, number, task) for number, task in enumerate(PARTS)}
    check_thirds(content, parts, json_file)
    for task, part in parts.items():
        with whole_file(output / f"{task}.json") as unfinished:
            unfinished.write_text(json.dumps(part), encoding="utf-8")
        count = len(part.get("annotations", ()))
        if task == "seg":
            write_maps(content, part["images"], output / "sem_seg", json_file)
        print(f"{output / task}.json: {len(part['images'])} images, {count} objects")
    DATA_REPORT.log_totals()


def check(content: dict[str, Any], json_file: str) -> None:
    """
    Raises:
        ValueError: a field that is read here is missing, or of another kind.
    """
    for field, kinds in _READ_FIELDS.items():
        entries = content.get(field)
        if not isinstance(entries, list):
            found = type(entries).__name__
            raise ValueError(f"{json_file}: field {field!r}: found {found}, expected a list")
        for index, entry in enumerate(entries):
            where = f"{json_file}: {field}[{index}]"
            if not isinstance(entry, dict):
                raise ValueError(f"{where}: found {shown(entry)}, expected an object")
            for key, (is_right, expected) in kinds.items():
                if not is_right(entry.get(key)):
                    found = shown(entry.get(key))
                    raise ValueError(f"{where}: field {key!r}: found {found}, expected {expected}")
    check_ids(json_file, content["images"])
    for entries, key in (("categories", "category_id"), ("images", "image_id")):
        ids = {entry["id"] for entry in content[entries]}
        for index, annotation in enumerate(content["annotations"]):
            if annotation[key] not in ids:
                raise ValueError(
                    f"{json_file}: annotations[{index}]: field {key!r}: found {annotation[key]}, "
                    f"expected one of {shown(sorted(ids))}"
                )


def check_thirds(content: dict[str, Any], parts: dict[str, Any], json_file: str) -> None:
    """
    Raises:
        ValueError: a third has no images or no labels of its task, or two of its images one map.
    """
    for number, (task, part) in enumerate(parts.items()):
        field = _LABEL_FIELDS[task]
        ids = {image["id"] for image in part["images"]}
        objects = (a for a in content["annotations"] if a["image_id"] in ids)
        if not any(_is_given(a.get(field)) for a in objects):
            raise ValueError(
                f"{json_file}: found {len(ids)} images with an id of {number} modulo 3, and no "
                f"{field!r} of them, expected some for {task}.json"
            )
    check_map_names(json_file, [image["file_name"] for image in parts["seg"]["images"]])


def _is_given(label: Any) -> bool:
    """COCO writes keypoints that are not labelled as zeros."""
    label = flat_keypoints(label)
    return isinstance(label, list | dict) and any(label)


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_box(value: Any) -> bool:
    numbers = isinstance(value, list) and all(type(x) in (int, float) for x in value)
    return numbers and len(value) == 4 and all(map(math.isfinite, value))


def _is_inside(value: Any) -> bool:
    """Maps are named as the images: none may replace a file outside of the output folder."""
    name = as_file_name(value)
    return bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts


_ID, _SIZE = (_is_integer, "an integer"), (_is_size, "a number of pixels")
_NAME = (_is_inside, "a file name inside of the images' folder")
_READ_FIELDS: dict[str, dict[str, tuple[Callable[[Any], Any], str]]] = {
    "images": {"id": _ID, "file_name": _NAME, "height": _SIZE, "width": _SIZE},
    "categories": {"id": _ID},
    "annotations": {"image_id": _ID, "category_id": _ID, "bbox": (_is_box, "four numbers")},
}


def third(content: dict[str, Any], number: int, task: str) -> dict[str, Any]:
    """The images whose id is ``number`` modulo 3, with the labels of one of ``PARTS``."""
    images = [image for image in content["images"] if image["id"] % 3 == number]
    if task not in _KEPT_FIELDS:
        return {"images": images}
    annotations = [
        {key: value for key, value in annotation.items() if key in _KEPT_FIELDS[task]}
        for annotation in content["annotations"]
        if annotation["image_id"] % 3 == number
    ]
    return {"images": images, "categories": content["categories"], "annotations": annotations}


def write_maps(
    content: dict[str, Any], images: list[dict[str, Any]], folder: Path, json_file: str
) -> None:
    """A PNG file of class ids for each image, derived from its objects' masks as in training."""
    ids = sorted(category["id"] for category in content["categories"])
    reader = ObjectReader({category_id: i for i, category_id in enumerate(ids)}, 0)
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    for index, annotation in enumerate(content["annotations"]):
        where, image_id = f"{json_file}: annotations[{index}]", annotation["image_id"]
        if image_id in objects and not reader.is_listed_twice(annotation, where):
            found = reader.read({**annotation, "keypoints": None}, *sizes[image_id], where)
            objects[image_id] += [] if found is None else [found]
    DATA_REPORT.extend(reader.problems)
    for image in images:
        path = (folder / image["file_name"]).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        found, size = objects[image["id"]], sizes[image["id"]]
        painted = sem_seg_from_annotations(found, *size, where=str(path))
        with whole_file(path) as unfinished:
            Image.fromarray(painted).save(unfinished, format="PNG")


if __name__ == "__main__":
    sys.exit(main())
