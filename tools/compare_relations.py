#!/usr/bin/env python
"""Compares relations of patches: which one, divided how, gives the best segments without labels.

    python tools/compare_relations.py --config-file quick/mae_textures.yaml \
        --images datasets/synthetic_textures/same_palette/test/images \
        --masks datasets/synthetic_textures/same_palette/test/masks \
        --choose-images datasets/synthetic_textures/same_palette/val/images \
        --choose-masks datasets/synthetic_textures/same_palette/val/masks --output output/textures
    python tools/compare_relations.py --config-file quick/mae_tiny_imagenet.yaml \
        --images datasets/ecssd/images --masks datasets/ecssd/masks --choose 360 400 \
        --report 300 360 --output output/photographs
    python tools/compare_relations.py --config-file quick/mae_tiny_imagenet.yaml \
        --dataset bsds500_test --size 96 128 --output output/bsds500

Relations from reconstruction errors, encoder features, colours, pixels, and the distance alone,
each divided by Louvain's method and by the normalised cut; and controls that look at no image.
Each relation that asks the autoencoder is measured with the same network untrained too, and after 5
% of its training if the folder of MODEL.WEIGHTS or --early has such weights.
Settings are chosen, with masks, on the images of --choose and reported on those of --report
(numbers in the order of the names). OUTPUT gets table.md, table.json and table.png. The command may
be interrupted and repeated: images that are done are kept.

With --dataset, segments at several levels instead of one foreground: BSDS500's measures against
people, at each --size, on patches and after refinement.

Exit code: 0; 2 if something was typed wrong; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.data.datasets.bsds500 import load_partitioned
from d2_multitask.data.whole_files import whole_file, write_json, write_text
from d2_multitask.engine.setup import parse_with_overrides
from d2_multitask.evaluation.segments import mask_files
from d2_multitask.exits import exit_code
from d2_multitask.patch_graph.communities import BACKENDS
from d2_multitask.segmenting.images import (
    checksum,
    default_long_side,
    find_images,
    network_as_json,
)
from d2_multitask.segmenting.output_folder import claim_folder
from studies.relations.divisions import DIVISIONS, MEAN_MASK
from studies.relations.images import RESULTS, LabelledImage, Study
from studies.relations.levels import RESOLUTIONS
from studies.relations.methods import (
    Method,
    method_as_json,
    method_from_json,
)
from studies.relations.networks import Networks, load_networks
from studies.relations.partition_study import (
    COLOR_REGIONS,
    GRID,
    GROWN_FROM,
    PIXELS,
    PartitionStudy,
    grown_rows,
)
from studies.relations.partition_table import (
    collect_partitions,
    partitions_json,
    partitions_markdown,
)
from studies.relations.picture import draw_study
from studies.relations.relations import RELATIONS, Measuring, split_network
from studies.relations.study import RelationStudy
from studies.relations.table import as_json, collect_result, markdown

BASELINES = ("distance / louvain", "color / louvain", "centre disc")
PARTITION_BASELINES = (GRID, COLOR_REGIONS, "distance / louvain", "color / louvain")
METHODS_FILE = "methods.json"
MEAN_MASK_FILE = "mean_mask.npy"
Item = TypeVar("Item")
AnyStudy = TypeVar("AnyStudy", bound=Study)
TABLE_FILE = "table.json"


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", help="of the autoencoder: path, or name below configs/")
    parser.add_argument("--images", type=Path, help="folder of images")
    parser.add_argument("--masks", type=Path, help="folder of their masks")
    parser.add_argument("--dataset", help="such as bsds500_test, in place of --images")
    parser.add_argument("--choose-dataset", help="(default: bsds500_val)")
    parser.add_argument("--report", type=int, nargs=2, metavar=("START", "STOP"))
    parser.add_argument("--num-images", type=int, help="report on so many of them at most")
    parser.add_argument("--choose-images", type=Path, help="(default: --images)")
    parser.add_argument("--choose-masks", type=Path, help="(default: --masks)")
    parser.add_argument("--choose", type=int, nargs=2, metavar=("START", "STOP"))
    parser.add_argument(
        "--methods", type=Path, help="methods.json of another study: choose nothing"
    )
    parser.add_argument("--relations", nargs="+", choices=RELATIONS, default=list(RELATIONS))
    parser.add_argument("--divisions", nargs="+", choices=DIVISIONS, default=list(DIVISIONS))
    parser.add_argument("--baselines", nargs="+", help="rows of the table")
    parser.add_argument("--passes", type=int, default=256, help="forward passes per relation")
    parser.add_argument("--backend", choices=BACKENDS, default="networkx", help="of Louvain")
    parser.add_argument(
        "--size", type=int, nargs="+", help="longer side in pixels (default: the MAE's)"
    )
    parser.add_argument(
        "--shifts", type=int, default=1, help="2: cells of half a patch, from 2x2 shifted grids"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--early", type=Path, help="weights after 5 %% of the training (default: beside the others)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace other settings' results")
    parser.add_argument("--output", type=Path, default=Path("output/compare_relations"))
    args = parse_with_overrides(parser, arguments)
    args.command = shlex.join(
        ["python", "tools/compare_relations.py", *(arguments or sys.argv[1:])]
    )
    check_arguments(parser, args)
    args.choose_dataset = args.choose_dataset or "bsds500_val"
    return args


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    needed = ("config_file", *(() if args.dataset else ("images", "masks")))
    missing = [f"--{n.replace('_', '-')}" for n in needed if not getattr(args, n)]
    if missing:
        parser.error(f"give {', '.join(missing)}")
    chosen_on = ("choose_images", "choose_masks")
    for name, others in (
        ("dataset", ("images", "masks", "methods", *chosen_on)),
        ("methods", ("choose", *chosen_on)),
    ):
        found = [f"--{n.replace('_', '-')}" for n in others if getattr(args, n)]
        if getattr(args, name) and found:
            parser.error(f"--{name}: found {', '.join(found)} with it, expected none of them")
    if args.choose_dataset and not args.dataset:
        parser.error("--choose-dataset: expected --dataset with it")
    if not args.dataset and len(args.size or ()) > 1:
        parser.error(f"--size: found {len(args.size)} sizes, expected one without --dataset")
    for name, found in (
        ("passes", args.passes),
        ("num-images", args.num_images),
        ("size", min(args.size or (1,))),
    ):
        if found is not None and found < 1:
            parser.error(f"--{name}: found {found}, expected >= 1")


def chosen_items(
    items: Sequence[Item], chosen: Sequence[int] | None, option: str, where: object
) -> Sequence[Item]:
    start, stop = chosen or (0, len(items))
    if not 0 <= start < stop <= len(items):
        raise ValueError(
            f"{option}: found {start} {stop}, expected START < STOP of the {len(items)} images in "
            f"{where}"
        )
    return items[start:stop]


def labelled(
    folder: Path,
    masks: Path,
    chosen: Sequence[int] | None,
    option: str,
    most: int | None = None,
    prefix: str = "",
) -> list[LabelledImage]:
    files = find_images([folder])
    # of the whole folder: names of two parts of it must not meet
    outputs = dict(zip(files.names, files.outputs(), strict=True))
    found = mask_files(masks, chosen_items(files.names, chosen, option, folder)[:most])
    return [
        LabelledImage(f"{prefix}{outputs[name]}", files.root / name, mask)
        for name, mask in found.items()
    ]


def image_sets(
    args: argparse.Namespace,
) -> tuple[Sequence[LabelledImage], Sequence[LabelledImage]]:
    """Images to choose on (none if methods are given), and to report."""
    if args.dataset:
        choose = dataset_images(args.choose_dataset, args.choose, "--choose")
        report = dataset_images(args.dataset, args.report, "--report")[: args.num_images]
        return different(choose, report), report
    report = labelled(args.images, args.masks, args.report, "--report", args.num_images)
    if args.methods:
        return [], report
    folders = (args.choose_images or args.images, args.choose_masks or args.masks)
    # Two folders may hold files of the same names, whose results must not meet.
    prefix = "chosen_on/" if args.choose_images else ""
    choose = labelled(*folders, args.choose, "--choose", prefix=prefix)
    return different(choose, report), report


def dataset_images(name: str, chosen: Sequence[int] | None, option: str) -> Sequence[LabelledImage]:
    images = [
        LabelledImage(r["image_id"], Path(r["file_name"]), Path(r["partitions_file_name"]))
        for r in load_partitioned(name)
    ]
    return chosen_items(images, chosen, option, name)


def different(
    choose: Sequence[LabelledImage], report: Sequence[LabelledImage]
) -> Sequence[LabelledImage]:
    """Images to choose on, if none of them is reported."""
    both = {image.file.resolve() for image in choose} & {i.file.resolve() for i in report}
    if both:
        raise ValueError(
            f"--choose, --report: found {len(both)} images in both, such as {sorted(both)[0]}; "
            "settings have to be chosen on other images than those reported"
        )
    return choose


def progress(items: Iterable[Any], what: str) -> Iterable[Any]:
    return tqdm(items, desc=what, unit="image", disable=None)


def make_study(
    kind: type[AnyStudy],
    args: argparse.Namespace,
    networks: Networks,
    size: int,
    folder: Path,
    choose: Sequence[LabelledImage],
) -> AnyStudy:
    settings = study_settings(args, networks, size, choose)
    claim_folder(folder, settings, RESULTS, args.overwrite)
    relations = folder / "relations"
    measuring = Measuring(
        networks.model, args.passes, args.seed, relations, networks.controls, args.shifts
    )
    return kind(
        measuring,
        folder,
        long_side=size,
        input_format=networks.cfg.INPUT.FORMAT,
        relations=args.relations,
        divisions=args.divisions,
        backend=args.backend,
        progress=progress,
    )


def study_settings(
    args: argparse.Namespace, networks: Networks, long_side: int, choose: Sequence[LabelledImage]
) -> dict[str, Any]:
    """Everything that the files of single images depend on, without the masks reported on."""
    names = ("images", "masks", "choose_images", "choose_masks")
    folders = {name: str(getattr(args, name).resolve()) for name in names if getattr(args, name)}
    masks = " ".join(checksum(image.mask_file) for image in choose)
    return {
        **network_as_json(networks.cfg),
        "untrained_seed": networks.cfg.SEED,
        "early_crc32": networks.early and checksum(str(networks.early)),
        "size": long_side,
        "passes": args.passes,
        "shifts": args.shifts,
        "seed": args.seed,
        "relations": args.relations,
        "divisions": args.divisions,
        # foregrounds have neither
        **({"levels": RESOLUTIONS, "grown_from": GROWN_FROM} if args.dataset else {}),
        "backend": args.backend,
        **({"datasets": [args.dataset, args.choose_dataset]} if args.dataset else folders),
        "choose": args.choose,
        "chosen_masks_crc32": f"{zlib.crc32(masks.encode()):08x}",
        "methods": args.methods and json.loads(args.methods.read_text()),
    }


def known_methods(args: argparse.Namespace, networks: Networks) -> list[Method]:
    """Of --methods; without those of "early" if there are no such weights."""
    try:
        methods = [method_from_json(entry) for entry in json.loads(args.methods.read_text())]
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"--methods: found {args.methods}, which no study wrote: {error}"
        ) from None
    known = ("", *networks.controls)
    return [
        m for m in methods if is_asked_for(m.name, args) and split_network(m.relation)[1] in known
    ]


def known_mean_mask(args: argparse.Namespace, methods: Sequence[Method]) -> np.ndarray | None:
    """Of the study that --methods is from; none if it is older than this control."""
    if all(method.relation != MEAN_MASK for method in methods):
        return None
    file = args.methods.with_name(MEAN_MASK_FILE)
    if not file.is_file():
        raise ValueError(f"--methods: found no {file}, expected the file beside {args.methods}")
    return np.load(file)


def is_asked_for(name: str, args: argparse.Namespace) -> bool:
    """By --relations and --divisions; controls always are."""
    relation, _, division = name.partition(" / ")
    relation, _ = split_network(relation)
    return not division or (relation in args.relations and division in args.divisions)


def compare(args: argparse.Namespace) -> str:
    choose, report = image_sets(args)
    networks = load_networks(args.config_file, args.opts, args.early)
    sizes = args.size or [default_long_side(networks.model)]
    study = make_study(RelationStudy, args, networks, sizes[0], args.output, choose)
    if args.methods:
        methods = known_methods(args, networks)
        study.mean_mask = known_mean_mask(args, methods)
    else:
        methods = study.choose(choose)
    baselines = baselines_among(args, [method.name for method in methods], BASELINES)
    write_json(args.output / METHODS_FILE, [method_as_json(m) for m in methods], indent=1)
    if study.mean_mask is not None:
        with whole_file(args.output / MEAN_MASK_FILE) as unfinished, unfinished.open("wb") as file:
            np.save(file, study.mean_mask)
    records = study.report(report, methods)
    result = collect_result(records, methods, len(choose), networks.note)
    text = markdown(result, baselines, args.command)
    write_text(args.output / "table.md", text)
    write_json(args.output / TABLE_FILE, as_json(result, baselines, args.command))
    draw_study(result, args.output / "table.png")
    return text


def baselines_among(
    args: argparse.Namespace, names: Sequence[str], defaults: Sequence[str]
) -> Sequence[str]:
    """Those of --baselines, or those of the defaults that are rows of the table."""
    if unknown := set(args.baselines or ()) - set(names):
        raise ValueError(f"--baselines: found {sorted(unknown)}, expected some of {names}")
    return args.baselines or [name for name in defaults if name in names]


def compare_partitions(args: argparse.Namespace) -> str:
    choose, report = image_sets(args)
    networks = load_networks(args.config_file, args.opts, args.early)
    results, methods = {}, {}
    for size in args.size or [default_long_side(networks.model)]:
        folder = args.output / f"size_{size}"
        study = make_study(PartitionStudy, args, networks, size, folder, choose)
        methods[size] = study.choose(choose)
        controls = [GRID, COLOR_REGIONS, *grown_rows(networks.controls)]
        names = [*controls, *(method.name for method in methods[size])]
        baselines = baselines_among(args, names, PARTITION_BASELINES)
        records = study.report(report, methods[size])
        results[size] = {w: collect_partitions(records, w) for w in PIXELS}
    note = (
        f"{len(report)} images; scale and locality of each method were chosen on {len(choose)} "
        f"other images. {networks.note}"
    )
    text = partitions_markdown(results, methods, baselines, note, args.command)
    write_text(args.output / "table.md", text)
    write_json(args.output / TABLE_FILE, partitions_json(results, methods, note, args.command))
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    setup_logger(name="d2_multitask", abbrev_name="d2_multitask")
    work = compare_partitions if args.dataset else compare
    return exit_code(
        lambda: print(work(args)), interrupted="\nStopped. The same command continues from here.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
