"""Draw scenes in PASCAL in Detail's layout: eight kinds of labels, learnt in minutes.

Writes <root>/synthetic_in_detail. It is safe to interrupt and to repeat: what is complete is left
alone. Needs no download.

    python datasets/prepare_synthetic_in_detail.py
    python datasets/prepare_synthetic_in_detail.py --num-train 3000 --workers 8
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

try:
    import d2_multitask  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "d2_multitask":
        raise
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # not installed: use this clone

from d2_multitask.data.synthetic_in_detail import write_synthetic_in_detail
from d2_multitask.data.synthetic_in_detail.scene import DETAIL_CONFIG


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    low, high = DETAIL_CONFIG.short_side
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="folder of all data sets (default: $DETECTRON2_DATASETS or 'datasets')",
    )
    parser.add_argument("--num-train", type=int, default=900, help="images (default: 900)")
    parser.add_argument("--num-val", type=int, default=150, help="images (default: 150)")
    parser.add_argument("--seed", type=int, default=0, help="other seed, other images (default: 0)")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=(low, high),
        help=f"range of the shorter side in pixels (default: {low} {high})",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, 8),
        help="processes (default: one per core, at most 8)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another set")
    parser.add_argument(
        "--hostile",
        action="store_true",
        help="also write the annotations in odd forms, to try loaders on",
    )
    return parser.parse_args()


def prepare(arguments: argparse.Namespace) -> None:
    """Draw both phases."""
    start = shown = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if done == total or now - shown >= 5.0:
            shown = now
            left = (now - start) / max(done, 1) * (total - done)
            print(f"{done}/{total} images, {now - start:.0f} s, ETA {left:.0f} s", flush=True)

    path = write_synthetic_in_detail(
        arguments.root,
        arguments.num_train,
        arguments.num_val,
        arguments.seed,
        config=replace(DETAIL_CONFIG, short_side=tuple(arguments.image_size)),
        num_workers=arguments.workers,
        overwrite=arguments.overwrite,
        hostile=arguments.hostile,
        progress=progress,
    )
    print(f"{path} is complete ({time.monotonic() - start:.0f} s)", flush=True)


def main() -> None:
    """Run, and tell the user's errors without a traceback."""
    # A plain kill ends the worker processes, too: it becomes an exception that closes the pool.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        prepare(parse_arguments())
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues")


if __name__ == "__main__":
    main()
