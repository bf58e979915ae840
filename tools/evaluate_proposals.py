#!/usr/bin/env python
"""How many labelled objects do segments found without labels propose? COCO's AR and AP, no classes.

    python tools/evaluate_proposals.py --config-file quick/mask_rcnn_proposals.yaml \
        --dataset coco_people_val --grid 1 2 3 4 5 --output output/proposals/coco_people_val \
        --segments output/segments/segments.json output/maskcut/objects.json

--segments: files in COCO's format with a score for each annotation, as tools/segment_unlabelled.py
writes them; an image is that of the dataset whose path ends with its file_name, and images that the
dataset does not have are left out. Each file is a row of the table; --grid adds one whose proposals
are N x N rectangles, the large ones first, a control.

OUTPUT gets table.md and results.json. Exit code: 0; 2 if something was typed wrong or is missing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from tabulate import tabulate

import d2_multitask  # noqa: F401 (registers datasets)
from d2_multitask.config import load_config
from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.coco_json import read_json
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.whole_files import write_json, write_text
from d2_multitask.engine.setup import find_config_file
from d2_multitask.evaluation.coco.class_agnostic import class_agnostic_scores
from d2_multitask.evaluation.coco.labels import coco_ground_truth
from d2_multitask.evaluation.partitions import grid
from d2_multitask.evaluation.segments import segment_results
from d2_multitask.exits import exit_code

METRICS = {"segm": "masks", "bbox": "boxes"}
FIELDS = ("score", "segmentation", "bbox")

Results = list[dict[str, Any]]


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", nargs="+", type=Path, default=[], help="files, a row each")
    parser.add_argument("--grid", nargs="+", type=int, metavar="N", help="N x N rectangles, a row")
    parser.add_argument("--dataset", required=True, help="registered, with objects")
    parser.add_argument("--config-file", help="registers more (DATASETS.REGISTER)")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(arguments)
    if not args.segments and not args.grid:
        parser.error("found neither --segments nor --grid, expected proposals to evaluate")
    if args.grid and min(args.grid) < 1:
        parser.error(f"--grid: found {min(args.grid)}, expected >= 1")
    return args


def read_results(file: Path, records: Sequence[Mapping[str, Any]]) -> Results:
    """Segments of the dataset's images as COCO's results, with the dataset's image ids.

    Raises:
        ValueError: the file is no such file, or has no segments of some of the images.
    """
    content = read_json(str(file))
    images, annotations = (content.get(key, ()) for key in ("images", "annotations"))
    for what, entries, fields in (
        ("image", images, ("id", "file_name", "height", "width")),
        ("annotation", annotations, ("image_id", *FIELDS)),
    ):
        wrong = next((e for e in entries if any(field not in e for field in fields)), None)
        if wrong is not None:
            raise ValueError(
                f"{file}: {what} {wrong.get('id')!r}: found no {' or no '.join(fields)}, expected "
                "all, as tools/segment_unlabelled.py writes them"
            )
    ids = _ids_of_files(file, images, records)
    found = [a for a in annotations if a["image_id"] in ids]
    sizes = {image["id"]: [image["height"], image["width"]] for image in images}
    for entry in found:
        if fault := _fault(entry, sizes[entry["image_id"]]):
            raise ValueError(f"{file}: annotation {entry.get('id')!r}: {fault}")
    return [{"image_id": ids[a["image_id"]], **{f: a[f] for f in FIELDS}} for a in found]


def _fault(annotation: Mapping[str, Any], size_hw: list[int]) -> str | None:
    """What COCO's evaluation could not use."""
    mask, score, box = (annotation[field] for field in ("segmentation", "score", "bbox"))
    is_mask = isinstance(mask, dict) and isinstance(mask.get("counts"), str)
    if not is_mask or mask.get("size") != size_hw:
        return f"segmentation: expected a compressed RLE of the image's size {size_hw}"
    if not isinstance(score, int | float) or not math.isfinite(score):
        return f"score: found {score!r}, expected a number"
    if not isinstance(box, list) or len(box) != 4:
        return f"bbox: found {box!r}, expected [x, y, width, height]"
    return None


def _ids_of_files(
    file: Path, images: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> dict[Any, Any]:
    """The file's image id -> the dataset's, for every image of the dataset, by their names."""
    by_name = {image["file_name"]: image for image in images}
    if len(by_name) < len(images):
        raise ValueError(f"{file}: found images of one file_name, expected each image once")
    ids = {}
    for record in records:
        parts = Path(record["file_name"]).parts
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        image = next((by_name[end] for end in ends if end in by_name), None)
        if image is None:
            raise ValueError(
                f"{file}: found no {parts[-1]} among {len(images)} images, expected all "
                f"{len(records)} of the dataset: segment its folder of images to the end"
            )
        found, expected = ((i["height"], i["width"]) for i in (image, record))
        if found != expected:
            raise ValueError(
                f"{file}: image {parts[-1]}: found (height, width) {found}, expected {expected}"
            )
        if image["id"] in ids:
            raise ValueError(
                f"{file}: found one image {image['file_name']} for two of the dataset, the second "
                f"of them {record['file_name']}; segment the folder that holds both"
            )
        ids[image["id"]] = record["image_id"]
    return ids


def grid_results(numbers: Sequence[int], records: Sequence[Mapping[str, Any]]) -> Results:
    """Rectangles of several sizes as COCO's results, the same in every image."""
    results = []
    for record in records:
        for number in numbers:
            labels = grid(number, (record["height"], record["width"]))
            scores = [1 / number] * number**2
            results += segment_results(labels, scores, record["image_id"])
    return [{**r, "bbox": mask_util.toBbox(r["segmentation"]).tolist()} for r in results]


def evaluate(args: argparse.Namespace) -> None:
    if args.config_file:
        register_datasets(load_config(find_config_file(args.config_file)).DATASETS.REGISTER)
    records = load_dataset(args.dataset)
    if not any("annotations" in record for record in records):
        raise ValueError(f"--dataset: found {args.dataset}, which has no objects; expected some")
    labels = {"annotations": [], **coco_ground_truth(args.dataset, records)}
    proposals = {str(file): read_results(file, records) for file in args.segments}
    if args.grid:
        proposals[f"grid {' '.join(map(str, args.grid))}"] = grid_results(args.grid, records)
    scores = {
        name: {
            "proposals per image": len(found) / len(records),
            **{
                f"{words} {key}": value
                for metric, words in METRICS.items()
                for key, value in class_agnostic_scores(labels, found, metric).items()
            },
        }
        for name, found in proposals.items()
    }
    write_json(args.output / "results.json", scores, indent=1)
    rows = [{args.dataset: name, **values} for name, values in scores.items()]
    table = tabulate(rows, headers="keys", tablefmt="github", floatfmt=".1f")
    write_text(args.output / "table.md", table + "\n")
    print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    return exit_code(lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
