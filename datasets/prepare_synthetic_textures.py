"""Draw striped objects on striped backgrounds: what colours cannot tell apart, stripes can.

Writes <root>/synthetic_textures, in the kinds "same_palette" and "other_palette". It is safe to
interrupt and to repeat: what is complete is left alone. Needs no download.

    python datasets/prepare_synthetic_textures.py
    python datasets/prepare_synthetic_textures.py --num-train 10000 --size 128 96
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

# The script beside this one; it also finds the package where that is not installed.
from prepare_synthetic_people import progress_of, run
from synthetic.textures import (
    KINDS,
    SPLITS,
    TextureConfig,
    write_synthetic_textures,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    parser.add_argument("--root", type=Path, default=root, help="folder of all datasets")
    for split, number in zip(SPLITS, (6000, 100, 100), strict=True):
        parser.add_argument(
            f"--num-{split}", type=int, default=number, help=f"images a kind (default: {number})"
        )
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), default=(64, 64))
    parser.add_argument("--seed", type=int, default=0, help="other seed, other images (default: 0)")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what was made with other arguments"
    )
    return parser.parse_args()


def prepare(arguments: argparse.Namespace) -> None:
    """Draw all splits of all kinds."""
    config = TextureConfig(height=arguments.size[0], width=arguments.size[1])
    for kind in KINDS:
        for split in SPLITS:
            start = time.monotonic()
            path = write_synthetic_textures(
                arguments.root,
                kind,
                split,
                getattr(arguments, f"num_{split}"),
                arguments.seed,
                config=config,
                num_workers=arguments.workers,
                overwrite=arguments.overwrite,
                progress=progress_of(f"{kind} {split}"),
            )
            print(f"{path} is complete ({time.monotonic() - start:.0f} s)", flush=True)


def main() -> None:
    """Read the command line and draw."""
    arguments = parse_args()
    run(lambda: prepare(arguments))


if __name__ == "__main__":
    main()
