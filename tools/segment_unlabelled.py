#!/usr/bin/env python
"""Segments images without any labels, by a masked autoencoder: what is needed to reconstruct what.

    python tools/segment_unlabelled.py --input photos/ --output output/segments
    python tools/segment_unlabelled.py --config-file quick/mae_pretrain.yaml --input images/ \
        --output output/segments MODEL.WEIGHTS output/quick/mae_pretrain/model_final.pth
    python tools/segment_unlabelled.py ... --input a.jpg --click 120 80     # what helps this patch?
    python tools/segment_unlabelled.py ... --masks photos_masks/            # how good is it?
    python tools/segment_unlabelled.py ... --input photos_shards/shards.json     # tar files

Without --config-file: the autoencoder that comes with the package, with the settings that were
chosen for photographs (PHOTOGRAPHS below); options change single ones.

OUTPUT gets label maps, foregrounds, overlays, picture strips (patches, graph, communities, larger
graphs, segments), the graphs, and two datasets in COCO format: segments.json, all segments, and
objects.json, the foregrounds. DATASETS.REGISTER makes training sets of them:
configs/quick/mask_rcnn_segments.yaml. See d2_multitask/segmenting/output_folder.py.

The same command continues where an earlier one was stopped; images that have changed since are
segmented again. Several processes share the images: torchrun --nproc-per-node N
tools/segment_unlabelled.py ... Exit code: 0; 1 if no image could be segmented; 2 if something was
typed wrong; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from tabulate import tabulate
from tqdm import tqdm

import d2_multitask
from d2_multitask.config import load_config
from d2_multitask.data.io import ImageReadError, ShardError, read_image
from d2_multitask.data.shard_files import PREFIX
from d2_multitask.data.whole_files import write_png
from d2_multitask.engine.processes import SHARE, Run, in_this_process
from d2_multitask.engine.setup import device_of, find_config_file, flat, parse_with_overrides
from d2_multitask.evaluation.segments import mask_files
from d2_multitask.exits import exit_code
from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.patch_graph import Segmentation, SegmenterSettings, segment_image
from d2_multitask.patch_graph.color_regions import NUM_REGIONS
from d2_multitask.patch_graph.communities import BACKENDS
from d2_multitask.patch_graph.foreground import RULES
from d2_multitask.patch_graph.maskcut import MASKCUT, RELATION
from d2_multitask.patch_graph.relation import ESTIMATORS, SIMILARITIES
from d2_multitask.patch_graph.segmenter import relation_of_patch
from d2_multitask.segmenting.images import (
    ReadyImage,
    default_long_side,
    find_images,
    load_autoencoder,
    network_as_json,
    read_ready,
)
from d2_multitask.segmenting.output_folder import (
    PICTURES,
    SHEET_NAME,
    OutputFolder,
    evaluate_folder,
)
from d2_multitask.visualization import style
from d2_multitask.visualization.contact_sheet import contact_sheet, side_by_side
from d2_multitask.visualization.segments import (
    draw_relation_of_patch,
    draw_segments,
    draw_strip,
)

logger = logging.getLogger("d2_multitask.segment_unlabelled")

DEFAULTS = SegmenterSettings()
NO_RULE = "none"
MIN_LONG_SIDE = 480  # pixels of overlays
MAX_SHEET_STRIPS = 20
SHEET_WIDTH = 1600  # pixels
# The options without --config-file, and the network: docs/results.md, "Photographs".
PHOTOGRAPHS = {
    "config_file": "quick/mae_tiny_imagenet.yaml",
    "relation": ["color", "encoder_features", "ridge"],
    "size": 96,
    "shifts": 2,
    "tiles": False,
    "resolution": 0.3,
    "grow": False,
    "foreground": "absorption_time",
    "color_regions": NUM_REGIONS,
}
WEIGHTS = Path(d2_multitask.__file__).parent / "weights" / "mae_tiny_imagenet.safetensors"


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", help="path, or name below configs/ (default: for photographs)"
    )
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, or shards")
    parser.add_argument("--output", type=Path, default=Path("output/segments"))
    parser.add_argument("--max-images", type=int, help="the first ones only")
    parser.add_argument("--overwrite", action="store_true", help="replace other settings' results")
    parser.add_argument("--size", type=int, help="longer side in pixels (default: the MAE's)")
    parser.add_argument("--masks", type=Path, help="folder of true masks: evaluate only")
    parser.add_argument(
        "--click", type=float, nargs=2, metavar=("X", "Y"), help="draw what helps this patch"
    )
    parser.add_argument(
        "--min-score", type=float, default=float("-inf"), help="of the objects in objects.json"
    )
    yes_or_no = argparse.BooleanOptionalAction
    parser.add_argument("--pictures", action=yes_or_no, default=True, help="overlays and strips")
    parser.add_argument(
        "--sheet", action="store_true", help=f"the first strips in one {SHEET_NAME}"
    )
    add_settings(parser)
    args = parse_with_overrides(parser, arguments)
    if args.config_file is None:
        known = set(PHOTOGRAPHS)
        if args.foreground == MASKCUT:  # divides the graph of features itself
            known -= {"relation", "resolution", "grow"}
            parser.set_defaults(relation=[RELATION])
        parser.set_defaults(**{key: PHOTOGRAPHS[key] for key in known})
        args = parse_with_overrides(parser, arguments)
        args.opts = ["MODEL.WEIGHTS", str(WEIGHTS), *args.opts]
    if math.isnan(args.min_score):
        parser.error("--min-score: found nan, expected a number")
    unused = [f"--{name}" for name in ("sheet", "masks") if getattr(args, name)]
    if args.click and unused:
        parser.error(f"--click: found {', '.join(unused)} with it, expected none of them")
    for name in ("max_images", "size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: found {getattr(args, name)}, expected >= 1")
    return args


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options of how images are segmented, see `SegmenterSettings`."""
    kinds = [*ESTIMATORS, *SIMILARITIES]
    yes_or_no = argparse.BooleanOptionalAction
    group = parser.add_argument_group("how")
    group.add_argument("--relation", nargs="+", choices=kinds, default=list(DEFAULTS.kinds))
    group.add_argument("--passes", type=int, help="forward passes per relation")
    group.add_argument("--seconds", type=float, help="time per relation")
    group.add_argument("--locality", type=float, help="standard deviation, patches")
    group.add_argument(
        "--neighbours", type=int, default=DEFAULTS.neighbours, help="edges per patch"
    )
    group.add_argument("--resolution", type=float, default=DEFAULTS.resolution, help="Louvain's")
    group.add_argument("--consensus", type=int, default=DEFAULTS.num_consensus, help="runs")
    group.add_argument("--backend", choices=BACKENDS, default=DEFAULTS.backend)
    group.add_argument("--grow", action=yes_or_no, default=DEFAULTS.grow, help="measure regions")
    group.add_argument("--num-segments", type=int, help="merge until so many are left")
    group.add_argument("--merge-threshold", type=float, help="merge until no pair is that strong")
    group.add_argument(
        "--foreground", choices=(*RULES, MASKCUT, NO_RULE), default=DEFAULTS.foreground or NO_RULE
    )
    group.add_argument(
        "--foreground-threshold",
        type=float,
        default=DEFAULTS.foreground_threshold,
        help="a score not above it: no object",
    )
    group.add_argument("--border-weight", type=float, default=DEFAULTS.border_weight)
    group.add_argument("--tiles", action=yes_or_no, default=True, help="of larger images")
    group.add_argument(
        "--shifts", type=int, default=DEFAULTS.shifts, help="2: cells of half a patch"
    )
    words = "segments follow N regions of like colours (0: a guided filter)"
    group.add_argument("--color-regions", type=int, metavar="N", help=words)
    group.add_argument("--refine", action=yes_or_no, default=DEFAULTS.refine, help="follow edges")
    group.add_argument("--seed", type=int, default=DEFAULTS.seed)
    group.add_argument("--bf16", action="store_true", help="mixed precision")


def settings_of(args: argparse.Namespace, model: MaskedAutoencoder) -> SegmenterSettings:
    return SegmenterSettings(
        kinds=tuple(args.relation),
        passes=args.passes,
        seconds=args.seconds,
        locality=args.locality,
        neighbours=args.neighbours,
        resolution=args.resolution,
        num_consensus=args.consensus,
        backend=args.backend,
        grow=args.grow,
        num_segments=args.num_segments,
        merge_threshold=args.merge_threshold,
        foreground=None if args.foreground == NO_RULE else args.foreground,
        foreground_threshold=args.foreground_threshold,
        border_weight=args.border_weight,
        tile_hw=tuple(model.encoder.grid_hw) if args.tiles else None,
        shifts=args.shifts,
        color_regions=args.color_regions or None,
        refine=args.refine,
        seed=args.seed,
        dtype=torch.bfloat16 if args.bf16 else None,
    )


def settings_as_json(settings: SegmenterSettings, cfg: CfgNode, long_side: int) -> dict[str, Any]:
    """Everything that the segments depend on, without the images."""
    how = {**dataclasses.asdict(settings), "dtype": str(settings.dtype or torch.float32)}
    return {**how, "size": long_side, **network_as_json(cfg)}


def draw(image: ReadyImage, result: Segmentation) -> dict[str, np.ndarray]:
    overlay = draw_segments(style.enlarge(image.pixels, MIN_LONG_SIDE), result.pixel_labels)
    return dict(zip(PICTURES, (overlay, draw_strip(image.pixels, result)), strict=True))


class Segmenting:
    """The work of one call."""

    def __init__(self, args: argparse.Namespace, processes: Run) -> None:
        self.args = args
        cfg = load_config(find_config_file(args.config_file), args.opts)
        told = {key: str(value) for key, value in vars(args).items()}
        processes.start(device_of(cfg), {**flat(cfg), **told}, SHARE)
        self.cfg, self.model = load_autoencoder(args.config_file, args.opts)
        self.long_side = args.size or default_long_side(self.model)
        self.settings = settings_of(args, self.model)
        files = find_images(args.input, args.output)
        self.files = dataclasses.replace(files, names=files.names[: args.max_images])
        if args.masks:
            mask_files(args.masks, [])  # a missing folder is said before the work
        self.counts: Counter[str] = Counter()
        self.left_out: list[str] = []

    def read(self, name: str) -> ReadyImage:
        """One of the images, ready for the network."""
        file = self.files.file(name)
        how = (self.long_side, self.cfg.INPUT.FORMAT, self.settings.shifts)
        return read_ready(file, self.model, *how)

    def segment_all(self) -> OutputFolder:
        """Segment this process's share of what is not done yet; write the datasets of all."""
        described = settings_as_json(self.settings, self.cfg, self.long_side)
        described["input"] = str(self.files.root.resolve())  # what is written is named below it
        if self.files.addresses:  # the names of what is written are numbers in these shards
            content = "\n".join(self.files.addresses.values()).encode()
            described["shards"] = (
                f"{len(self.files.addresses)} images of {' '.join(self.args.input)}, CRC-32 of "
                f"their places {zlib.crc32(content):08x}"
            )
        if not comm.is_main_process():
            comm.synchronize()  # the first process may have to remove what others gave
        folder = OutputFolder(self.args.output, described, self.args.overwrite)
        missing = folder.missing(self.files, PICTURES if self.args.pictures else ())
        if comm.is_main_process():
            comm.synchronize()
        comm.synchronize()  # every process has seen the same before one begins to write
        if comm.is_main_process():
            self.counts["done before"] += len(self.files.names) - len(missing)
        # In one piece, so that a process reads its own shards only.
        ends = [len(missing) * (comm.get_rank() + n) // comm.get_world_size() for n in (0, 1)]
        share = missing[slice(*ends)]
        try:
            for name, output in tqdm(share, unit="image", disable=self.bar_disabled()):
                self.segment_one(folder, name, output)
            self.gather()
        finally:  # also of an interrupted run: what is done can be used
            if comm.is_main_process():
                self.paths = folder.write_datasets(self.files.outputs(), self.args.min_score)
        return folder

    def bar_disabled(self) -> bool | None:
        """Of all processes the first one shows its progress, if it is on a terminal."""
        return None if comm.is_main_process() else True

    def gather(self) -> None:
        """Wait for all shares; the first process then knows the counts of all."""
        comm.synchronize()
        parts = comm.gather((self.counts, self.left_out))
        self.counts = sum((counts for counts, _ in parts), Counter())
        self.left_out = [message for _, messages in parts for message in messages]

    def segment_one(self, folder: OutputFolder, name: str, output: str) -> None:
        """Segment one image; what cannot be segmented is counted and listed at the end."""
        modified = self.files.modified(name)
        try:
            image = self.read(name)
        except ShardError:  # not this image alone
            raise
        except ValueError as error:
            unreadable = isinstance(error, ImageReadError)
            self.counts["unreadable" if unreadable else "of an unusable size"] += 1
            self.left_out.append(str(error))
            return
        try:
            result = segment_image(self.model, image.tensor, self.settings, pixels=image.pixels)
        except ValueError as error:  # of the settings, such as too few passes: not this image alone
            raise ValueError(f"{self.files.file(name)}: {error}") from None
        pictures = draw(image, result) if self.args.pictures else {}
        folder.save(output, self.files.file_name(name), result, pictures, modified)
        self.counts["segmented"] += 1

    def write_sheet(self, folder: OutputFolder) -> None:
        """The strips of the first images below one another."""
        files = [folder.file("strips", output) for output in self.files.outputs()]
        strips = [read_image(str(f), "RGB") for f in files[:MAX_SHEET_STRIPS] if f.is_file()]
        if not strips:
            raise ValueError("--sheet: found no strips, expected some; --no-pictures makes none")
        widest = max(strip.shape[1] for strip in strips)
        same = [
            np.pad(s, ((0, 0), (0, widest - s.shape[1]), (0, 0)), constant_values=250)
            for s in strips
        ]
        sheet = contact_sheet(same, columns=1, cell_width=SHEET_WIDTH, gap=2)
        self.paths.append(folder.path / SHEET_NAME)
        write_png(self.paths[-1], sheet, compress_level=9)

    def click(self) -> Path:
        """Draw how the clicked patch is related to the others."""
        if len(self.files.names) != 1:
            raise ValueError(
                f"--click: found {len(self.files.names)} images in --input, expected one"
            )
        image = self.read(self.files.names[0])
        x, y = self.args.click
        height, width = image.pixels.shape[:2]
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"--click: found ({x:g}, {y:g}), expected a pixel of the image of {width}x{height} "
                "(width x height)"
            )
        related = relation_of_patch(
            self.model, image.tensor, self.settings, (x / width, y / height)
        )
        large = style.enlarge(image.pixels, MIN_LONG_SIDE)
        pictures = [
            draw_relation_of_patch(large, values, related.patch_yx)
            for values in (related.helps_it, related.is_helped)
        ]
        sheet = side_by_side(
            pictures, ["what helps the framed patch", "what the framed patch helps"]
        )
        path = self.args.output / "clicks" / f"{self.files.outputs()[0]}_{x:g}_{y:g}.png"
        write_png(path, sheet, compress_level=6)
        return path


def run(args: argparse.Namespace, processes: Run) -> int:
    if args.click and processes.place is not None:
        raise ValueError("--click: found several processes, expected one")
    work = Segmenting(args, processes)
    if args.click:
        print(work.click())
        return 0
    folder = work.segment_all()
    if not comm.is_main_process():
        return 0
    print(
        f"{len(work.files.names)} images: " + ", ".join(f"{n} {k}" for k, n in work.counts.items())
    )
    for message in work.left_out:
        print(f"left out: {message}", file=sys.stderr)
    if args.sheet:
        work.write_sheet(folder)
    print(f"In {args.output}: {', '.join(path.name for path in work.paths)}")
    if work.files.addresses:
        print(f"To train with them, DATASETS.REGISTER: JSON, and IMAGE_ROOT: '{PREFIX}'")
    if args.masks:
        scores = evaluate_folder(folder, work.files, args.masks)
        print(tabulate([(k, f"{v:.1f}") for k, v in scores.items()], ["metric", "value"]))
    return 0 if work.counts["segmented"] + work.counts["done before"] else 1


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: datasets are written
    stopped = "\nStopped. The same command continues from here.\n"
    return exit_code(lambda: in_this_process(partial(run, args)), stopped)


if __name__ == "__main__":
    sys.exit(main())
