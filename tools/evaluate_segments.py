#!/usr/bin/env python
"""How good are segments? Against those of several people, with BSDS500's measures.

    python tools/evaluate_segments.py --segments output/segments/labels --output output/bsds500
    python tools/evaluate_segments.py --mat datasets/BSDS500/ucm2/test --output output/gpb_ucm
    python tools/evaluate_segments.py --grid 1 2 3 4 --output output/grid

One method at several levels: --segments takes a folder for each, with a label map <image>.png (the
number of each pixel's segment) for every image, as tools/segment_unlabelled.py writes them; --mat
one folder of <image>.mat as the BSDS benchmark reads them: an ultrametric contour map "ucm2", which
is cut at the thresholds, or a cell "segs" of label maps. Controls that ask no network: --grid N
divides every image into N x N rectangles, --color-regions N into regions of like colours.

OUTPUT gets results.json, and the counts of each image: the same command continues where an earlier
one was stopped. Exit code: 0; 2 if something was typed wrong or a file is missing; 130 if
interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

import d2_multitask  # noqa: F401 (registers datasets)
from d2_multitask.data.datasets.bsds500 import Partition, load_partitioned, read_partitions
from d2_multitask.data.io import read_image, read_label_map
from d2_multitask.data.whole_files import whole_file, write_json
from d2_multitask.evaluation.boundary.precision_recall import even_thresholds
from d2_multitask.evaluation.partitions import (
    PartitionCounts,
    grid,
    measure_partitions,
    read_levels,
    summarize_partitions,
)
from d2_multitask.exits import exit_code
from d2_multitask.patch_graph.color_regions import color_regions
from d2_multitask.patch_graph.refine import stretch_labels
from d2_multitask.segmenting.images import checksum
from d2_multitask.segmenting.output_folder import claim_folder

RESULTS_FILE = "results.json"
COUNTS = "images/*.npz"


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--segments", nargs="+", type=Path, help="folders of label maps, one a level")
    what.add_argument("--mat", type=Path, help="folder of MATLAB files")
    what.add_argument("--grid", nargs="+", type=int, metavar="N", help="N x N rectangles, a level")
    what.add_argument("--color-regions", nargs="+", type=int, metavar="N", help="so many, a level")
    parser.add_argument("--dataset", default="bsds500_test", help="(default: %(default)s)")
    parser.add_argument("--num-images", type=int, help="the first ones only")
    parser.add_argument("--thresholds", type=int, default=99, help="of contour maps")
    parser.add_argument("--num-workers", type=int, default=1, help="processes")
    parser.add_argument("--overwrite", action="store_true", help="replace other settings' results")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(arguments)
    for name in ("num_images", "thresholds", "num_workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: found {getattr(args, name)}, expected >= 1")
    for name in ("grid", "color_regions"):
        if (found := min(getattr(args, name) or [1])) < 1:
            parser.error(f"--{name.replace('_', '-')}: found {found}, expected >= 1")
    return args


def input_files(args: argparse.Namespace, name: str) -> list[Path]:
    if args.mat:
        return [args.mat / f"{name}.mat"]
    return [folder / f"{name}.png" for folder in args.segments or ()]


def levels_of(
    args: argparse.Namespace, record: dict[str, Any], shape_hw: tuple[int, int]
) -> Iterable[np.ndarray | Partition]:
    files = input_files(args, record["image_id"])
    if args.color_regions:
        regions = color_regions(read_image(record["file_name"], "RGB"))
        levels = (regions.labels_at(num_regions=number) for number in args.color_regions)
        return [stretch_labels(level, shape_hw) for level in levels]
    if args.mat:
        return read_levels(files[0], even_thresholds(args.thresholds))
    if args.grid:
        return [grid(number, shape_hw) for number in args.grid]
    return [read_label_map(str(file)) for file in files]


def measured(args: argparse.Namespace, record: dict[str, Any]) -> PartitionCounts:
    """Counts of one image; those of an earlier run if the same files were read."""
    name = record["image_id"]
    file = args.output / COUNTS.replace("*", name)
    inputs = [*input_files(args, name), record["partitions_file_name"]]
    if args.color_regions:
        inputs.append(record["file_name"])
    crc32 = [checksum(path) for path in inputs]
    if file.is_file():
        with np.load(file) as counts:
            if "crc32" in counts and counts["crc32"].tolist() == crc32:
                return PartitionCounts(*(counts[field] for field in PartitionCounts._fields))
    people = read_partitions(record["partitions_file_name"])
    try:
        counts = measure_partitions(levels_of(args, record, people[0].segments.shape), people)
    except ValueError as error:
        raise ValueError(f"image {name}: {error}") from None
    with whole_file(file) as unfinished, unfinished.open("wb") as stream:
        np.savez(stream, crc32=crc32, **counts._asdict())
    return counts


def images_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The dataset's dicts, whose segments are all there."""
    records = load_partitioned(args.dataset)[: args.num_images]
    files = [file for record in records for file in input_files(args, record["image_id"])]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"found no file {missing[0]}, nor {len(missing) - 1} others of {len(files)}; expected "
            f"segments of all images of {args.dataset} (--num-images: of the first ones)"
        )
    return records


def _one_thread() -> None:
    cv2.setNumThreads(1)


def evaluate(args: argparse.Namespace) -> None:
    records = images_of(args)
    settings = {
        key: getattr(args, key) for key in ("dataset", "grid", "color_regions", "thresholds")
    }
    settings |= {"mat": args.mat and str(args.mat), "segments": list(map(str, args.segments or ()))}
    claim_folder(args.output, settings, (COUNTS, RESULTS_FILE), args.overwrite)
    with ProcessPoolExecutor(args.num_workers, initializer=_one_thread) as pool:
        results = (pool.map if args.num_workers > 1 else map)(partial(measured, args), records)
        images = list(tqdm(results, total=len(records), unit="image", disable=None))
    scores = {"num_images": len(images), **summarize_partitions(images)}
    write_json(args.output / RESULTS_FILE, scores, indent=1)
    print(tabulate([(k, f"{v:.4g}") for k, v in scores.items()], ["metric", "value"]))


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: its workers end too
    stopped = "\nStopped. The same command continues from here.\n"
    return exit_code(lambda: evaluate(args), stopped)


if __name__ == "__main__":
    sys.exit(main())
