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
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from tabulate import tabulate

import d2_multitask  # noqa: F401 (registers datasets)
from d2_multitask.config import load_config
from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.coco_annotations import as_file_name, as_id, as_integer, as_number
from d2_multitask.data.datasets.coco_json import read_json
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.labels.masks import clean_segmentation
from d2_multitask.data.problems import shown
from d2_multitask.data.whole_files import write_json, write_text
from d2_multitask.engine.setup import find_config_file
from d2_multitask.evaluation.coco.class_agnostic import class_agnostic_scores
from d2_multitask.evaluation.coco.labels import coco_ground_truth
from d2_multitask.evaluation.partitions import grid
from d2_multitask.evaluation.segments import segment_results
from d2_multitask.exits import exit_code

METRICS = {"segm": "masks", "bbox": "boxes"}

Results = list[dict[str, Any]]
Fields = Mapping[str, tuple[Callable[[Any], Any], str]]
"""Field -> a function that reads it, ``None`` for what cannot be used, and what is expected."""


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
    images = _read_each(file, content, "image", lambda entry: _read_fields(entry, _IMAGE_FIELDS))
    ids = _ids_of_files(file, images, records)
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    results = _read_each(file, content, "annotation", lambda entry: _read_result(entry, sizes))
    return [{**r, "image_id": ids[r["image_id"]]} for r in results if r["image_id"] in ids]


def _read_each(
    file: Path, content: Mapping[str, Any], what: str, read: Callable[[Any], dict[str, Any]]
) -> list[dict[str, Any]]:
    """What ``read`` gives of each image or annotation; its errors get the file and the entry."""
    entries = content.get(f"{what}s", [])
    if not isinstance(entries, list):
        raise ValueError(f"{file}: {what}s: found {shown(entries)}, expected a list of objects")
    result = []
    for index, entry in enumerate(entries):
        try:
            result.append(read(entry))
        except ValueError as error:
            entry_id = as_id(entry.get("id")) if isinstance(entry, dict) else None
            name = f"{what}s[{index}]" if entry_id is None else f"{what} {shown(entry_id)}"
            raise ValueError(f"{file}: {name}: {error}") from error
    return result


def _read_fields(entry: Any, fields: Fields) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f"found {shown(entry)}, expected an object")
    if any(field not in entry for field in fields):
        raise ValueError(
            f"found no {' or no '.join(fields)}, expected all, as tools/segment_unlabelled.py "
            "writes them"
        )
    values = {field: read(entry[field]) for field, (read, _) in fields.items()}
    for field in (field for field, value in values.items() if value is None):
        found, expected = shown(entry[field]), fields[field][1]
        raise ValueError(f"{field}: found {found}, expected {expected}")
    return values


def _read_result(annotation: Any, sizes: Mapping[Any, tuple[int, int]]) -> dict[str, Any]:
    result = _read_fields(annotation, _ANNOTATION_FIELDS)
    image_id = result["image_id"]
    if image_id not in sizes:
        raise ValueError(
            f"image_id: found {shown(image_id)}, expected that of an image of the file"
        )
    try:  # pycocotools never returns from some that are broken
        mask = clean_segmentation(result["segmentation"], *sizes[image_id], allow_empty=True)
    except ValueError as error:
        raise ValueError(f"segmentation: {error}") from error
    return {**result, "segmentation": mask}


def _as_rle(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) and isinstance(value.get("counts"), str) else None


def _as_box(value: Any) -> list[float] | None:
    numbers = list(map(as_number, value)) if isinstance(value, list) else []
    is_box = len(numbers) == 4 and None not in numbers and min(numbers[2:]) >= 0
    return numbers if is_box else None


_ID = (as_id, "a number or text")
_PIXELS = (as_integer, "a number of pixels")
_IMAGE_FIELDS: Fields = {
    "id": _ID,
    "file_name": (as_file_name, "a file name"),
    "height": _PIXELS,
    "width": _PIXELS,
}
_ANNOTATION_FIELDS: Fields = {
    "image_id": _ID,
    "score": (as_number, "a number"),
    "segmentation": (_as_rle, "a compressed RLE"),
    "bbox": (_as_box, "[x, y, width, height], finite numbers, no side below 0"),
}


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
    if all(a.get("iscrowd") for r in records for a in r.get("annotations", ())):
        raise ValueError(
            f"--dataset: found {args.dataset}, which has no labelled object; expected some"
        )
    labels = coco_ground_truth(args.dataset, records)
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
