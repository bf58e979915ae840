#!/usr/bin/env python
"""Measures how many passes a relation of patches needs: error by passes, as a table and a curve.

    python tools/relation_convergence.py --config-file quick/mae_pretrain.yaml \
        --input datasets/my_photos --num-images 4 --output output/convergence

Each relation that is sampled (ridge, conditional_means, leave_one_out) is compared with its own
estimate from --reference-passes other visible sets. OUTPUT gets convergence.md and convergence.png.

Exit code: 0; 2 if something was typed wrong; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.data.whole_files import write_text
from d2_multitask.engine.setup import parse_with_overrides
from d2_multitask.exits import exit_code
from d2_multitask.segmenting.images import (
    default_long_side,
    find_images,
    load_autoencoder,
    read_ready,
)
from studies.relations.convergence import (
    SAMPLED_KINDS,
    convergence_table,
    draw_convergence,
    measure_convergence,
)


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name below configs/")
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="images or folders")
    parser.add_argument("--num-images", type=int, default=4)
    parser.add_argument("--relations", nargs="+", choices=SAMPLED_KINDS, default=SAMPLED_KINDS)
    parser.add_argument("--passes", type=int, nargs="+", default=[288, 576, 1152])
    parser.add_argument("--reference-passes", type=int, default=2304)
    parser.add_argument("--seeds", type=int, default=2, help="curves of each image")
    parser.add_argument("--size", type=int, help="longer side in pixels (default: the MAE's)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--output", type=Path, default=Path("output/relation_convergence"))
    args = parse_with_overrides(parser, arguments)
    if args.num_images < 1 or args.seeds < 1:
        parser.error("expected --num-images >= 1 and --seeds >= 1")
    return args


def measure(args: argparse.Namespace) -> str:
    cfg, model = load_autoencoder(args.config_file, args.opts)
    files = find_images(args.input)
    long_side = args.size or default_long_side(model)
    paths = [files.root / name for name in files.names[: args.num_images]]
    curves = measure_convergence(
        model,
        (
            read_ready(path, model, long_side, cfg.INPUT.FORMAT).tensor
            for path in tqdm(paths, unit="image", disable=None)
        ),
        args.relations,
        args.passes,
        reference_passes=args.reference_passes,
        seeds=range(args.seeds),
        dtype=getattr(torch, args.dtype),
    )
    table = convergence_table(curves, args.passes)
    args.output.mkdir(parents=True, exist_ok=True)
    write_text(args.output / "convergence.md", table)
    draw_convergence(curves, args.passes, args.output / "convergence.png")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    return exit_code(lambda: print(measure(args)))


if __name__ == "__main__":
    sys.exit(main())
