"""Draw scenes in PASCAL in Detail's layout: eight kinds of labels, learned in minutes.

Writes <root>/synthetic_in_detail. It is safe to interrupt and to repeat: what is complete is left
alone. Needs no download.

    python datasets/prepare_synthetic_in_detail.py
    python datasets/prepare_synthetic_in_detail.py --num-train 3000 --workers 8
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

# The script beside this one; it also finds the package where that is not installed.
from prepare_synthetic_people import drawing_parser, progress_of, run
from synthetic.in_detail import write_synthetic_in_detail
from synthetic.in_detail.scene import DETAIL_CONFIG


def prepare(arguments: argparse.Namespace) -> None:
    """Draw both phases."""
    start = time.monotonic()
    path = write_synthetic_in_detail(
        arguments.root,
        arguments.num_train,
        arguments.num_val,
        arguments.seed,
        config=replace(DETAIL_CONFIG, short_side=tuple(arguments.image_size)),
        num_workers=arguments.workers,
        overwrite=arguments.overwrite,
        progress=progress_of("scenes"),
    )
    print(f"{path} is complete ({time.monotonic() - start:.0f} s)", flush=True)


def main() -> None:
    """Read the command line and draw."""
    parser = drawing_parser(__doc__, 900, 150, DETAIL_CONFIG.short_side)
    run(lambda: prepare(parser.parse_args()))


if __name__ == "__main__":
    main()
