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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from PIL import Image

from d2_multitask.data.datasets.coco_json import read_json
from d2_multitask.data.labels.sem_seg import sem_seg_from_annotations
from d2_multitask.data.whole_files import whole_file

PARTS = ("seg", "det", "pose")
_BOX_FIELDS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
_KEPT_FIELDS = {"det": _BOX_FIELDS, "pose": (*_BOX_FIELDS, "keypoints", "num_keypoints")}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", required=True, help="COCO-format file of boxes, keypoints, masks")
    parser.add_argument("--output", type=Path, required=True, help="folder for the three files")
    args = parser.parse_args(arguments)
    try:
        content = read_json(args.json)
        args.output.mkdir(parents=True, exist_ok=True)
        for number, task in enumerate(PARTS):
            part = third(content, number, task)
            with whole_file(args.output / f"{task}.json") as unfinished:
                unfinished.write_text(json.dumps(part), encoding="utf-8")
            count = len(part.get("annotations", ()))
            if task == "seg":
                write_maps(content, part["images"], args.output / "sem_seg")
            print(f"{args.output / task}.json: {len(part['images'])} images, {count} objects")
    except (ValueError, OSError, KeyError, TypeError) as error:
        print(f"Error: {args.json}: {error}", file=sys.stderr)
        return 2
    return 0


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


def write_maps(content: dict[str, Any], images: list[dict[str, Any]], folder: Path) -> None:
    """A PNG file of class ids for each image, derived from its objects' masks as in training."""
    ids = sorted(category["id"] for category in content["categories"])
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    for annotation in content["annotations"]:
        if annotation["image_id"] in objects:
            class_id = ids.index(annotation["category_id"])
            found = {**annotation, "category_id": class_id, "bbox_mode": BoxMode.XYWH_ABS}
            objects[annotation["image_id"]].append(found)
    for image in images:
        path = (folder / image["file_name"]).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        size = image["height"], image["width"]
        painted = sem_seg_from_annotations(objects[image["id"]], *size, where=str(path))
        with whole_file(path) as unfinished:
            Image.fromarray(painted).save(unfinished, format="PNG")


if __name__ == "__main__":
    sys.exit(main())
