#!/usr/bin/env python
"""Turns YOLO label files (boxes, segments or keypoints) into a COCO file.

    python datasets/convert/yolo.py my_yolo/data.yaml --images my_yolo/images/train \
        --labels my_yolo/labels/train --output datasets/my_people/train.json

Lines are "class x y w h", "class x1 y1 x2 y2 ..." (a polygon), or, if data.yaml has kpt_shape,
"class x y w h" and keypoints, whose names are kpt_names of data.yaml or --keypoints. An image
without a label file shows no object. Shares of an image's width and height become pixels; those of
keypoints become pixel indices, which Ultralytics makes them of.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from coco_file import BOX_SHARE, as_rows, images_of, parser_of, write_coco
from d2_multitask.exits import exit_code

TOLERANCE = 0.01  # shares may leave 0 to 1 by as much: tools round


def read_dataset(path: Path, names: Sequence[str]) -> tuple[list[str], list[str], int]:
    """Classes, names of keypoints (``names``, or the file's), and how many numbers each has."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    data = data if isinstance(data, dict) else {}
    classes, shape, found = (data.get(key) for key in ("names", "kpt_shape", "kpt_names"))
    if isinstance(classes, dict) and set(classes) == set(range(len(classes))):
        classes = [classes[i] for i in range(len(classes))]
    if not isinstance(classes, list) or not classes:
        raise ValueError(f"{path}: field 'names': found {classes}, expected a list of the classes")
    if len({str(name) for name in classes}) < len(classes):
        raise ValueError(f"{path}: field 'names': found {classes}, expected different names")
    if shape and not (isinstance(shape, list) and len(shape) == 2 and shape[1] in (2, 3)):
        raise ValueError(f"{path}: field 'kpt_shape': found {shape}, expected [number, 2 or 3]")
    count, dims = shape or (0, 3)
    found = list(found.values()) if isinstance(found, dict) else found
    if isinstance(found, list) and found and not isinstance(found[0], str):
        found = found[0]  # of the first class
    names = names or found or ()
    if not isinstance(names, list | tuple) or len(names) != count:
        expected = f"expected {count} names; type --keypoints NAME NAME ..."
        raise ValueError(f"{path}: field 'kpt_names': found {names}, {expected}")
    return classes, list(names), dims


def read_lines(files: Sequence[Path], labels: Path) -> list[tuple[str, int, np.ndarray]]:
    """Of each line: file and number, index of the file in ``files``, the line's numbers."""
    there = {path for path in labels.rglob("*.txt") if path.name != "classes.txt"}
    unused, lines = sorted(there - set(files)), []
    if len(unused) == len(there):
        raise ValueError(f"{labels}: found no label file of an image, expected {files[0]}")
    for index, file in enumerate(files):
        number = 0
        try:
            texts = file.read_text(encoding="utf-8").splitlines() if file in there else []
            for number, words in enumerate(map(str.split, texts), 1):
                lines += [(f"{file}:{number}", index, np.array(words, float))] if words else []
        except ValueError as error:
            raise ValueError(f"{file}:{number}: {error}, expected numbers") from error
    print(f"{sum(file not in there for file in files)} images have no label file: no object")
    if unused:
        print(f"{len(unused)} label files have no image and are left out, such as {unused[0]}")
    return lines


def convert(lines: Sequence, size: np.ndarray, num_classes: int, pose: int, dims: int) -> list:
    """Annotations of lines of one length.

    Args:
        lines: as of `read_lines`.
        size: (images, 1, 2), width and height.
        num_classes: of data.yaml.
        pose: numbers of an object's keypoints; 0 = a longer line is a polygon.
        dims: numbers of each keypoint.
    """
    places, images, values = zip(*lines, strict=True)
    values, size = np.stack(values), size[list(images)]
    count, length = values.shape
    is_polygon = not pose and length > 5 and length % 2 == 1
    if length not in (5, 5 + pose) and not is_polygon:
        long = f"{5 + pose} (with keypoints)" if pose else "7, 9, 11 ... (a polygon)"
        hint = "" if pose else "; keypoints need kpt_shape in data.yaml"
        raise ValueError(f"{places[0]}: found {length} numbers, expected 5 (a box) or {long}{hint}")
    shares = values[:, 1:] if is_polygon else values[:, 1:5]
    points = values[:, 5:].reshape(count, -1, dims) if pose else np.zeros((count, 0, 3))
    if dims == 2:  # without a label is (0, 0), or a number below 0
        points = np.dstack([points, 2.0 * ((points >= 0).all(2) & points.any(2))])
    is_share = (shares > -TOLERANCE) & (shares < 1 + TOLERANCE)
    for is_right, expected in (
        (np.isin(values[:, 0], range(num_classes)), f"a class from 0 to {num_classes - 1}"),
        (is_share.all(1), "shares of the image's width and height, from 0 to 1"),
        (np.isin(points[..., 2], (0, 1, 2)).all(1), "visibilities 0, 1 or 2"),
    ):
        for index in np.flatnonzero(~is_right)[:1]:
            found = " ".join(f"{value:g}" for value in values[index])
            raise ValueError(f"{places[index]}: found {found}, expected {expected}")
    pairs = shares.reshape(count, -1, 2)
    corners = (pairs if is_polygon else pairs[:, :1] + pairs[:, 1:] * [[-0.5], [0.5]]) * size
    side = np.ptp(corners, axis=1)
    columns = {
        "image_id": np.array(images) + 1,
        "category_id": values[:, 0].astype(int) + 1,
        "bbox": np.hstack([corners.min(1), side]),
        "area": side.prod(1) * (BOX_SHARE if points.size else 1),
    }
    if is_polygon:
        (x, y), (u, v) = np.moveaxis(corners, 2, 0), np.moveaxis(np.roll(corners, 1, 1), 2, 0)
        columns["area"] = np.abs((x * v - y * u).sum(1)) / 2
        columns["segmentation"] = corners.reshape(count, 1, -1)
    if points.size:
        points[..., :2] *= size * (points[..., 2:] > 0)
        columns["keypoints"] = points.reshape(count, -1)
    return as_rows(columns)


def run(args: argparse.Namespace) -> None:
    """Convert all files."""
    classes, keypoints, dims = read_dataset(args.data, args.keypoints)
    images = images_of(args.images)
    files = [(args.labels / image["file_name"]).with_suffix(".txt") for image in images]
    lines = read_lines(files, args.labels)
    size = np.array([[(image["width"], image["height"])] for image in images])
    rows = []
    for length in {len(line[2]) for line in lines}:
        some = [line for line in lines if len(line[2]) == length]
        rows += convert(some, size, len(classes), len(keypoints) * dims, dims)
    rows.sort(key=lambda row: row["image_id"])
    write_coco(args.output, images, rows, classes, keypoints)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path, help="data.yaml")
    parser.add_argument("--labels", type=Path, required=True, help="folder of label files")
    args = parser.parse_args(arguments)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
