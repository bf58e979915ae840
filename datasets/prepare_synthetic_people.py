"""Draw the synthetic people dataset: images, boxes, masks, joints, semantic and part maps.

Writes <root>/synthetic_people. It is safe to interrupt and to repeat: what is complete is left
alone, what is not is drawn again. Needs no download.

    python datasets/prepare_synthetic_people.py
    python datasets/prepare_synthetic_people.py --num-train 5000 --image-size 256 320 --workers 8
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

try:
    import d2_multitask  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "d2_multitask":
        raise
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # not installed: use this clone

from d2_multitask.data.folder_lock import LockHeldError
from d2_multitask.engine.setup import progress_bar
from synthetic.people import SceneConfig, write_synthetic_people


def progress_of(name: str, unit: str = "image") -> Callable[[int, int], None]:
    """A progress bar, to be called with (units done, units in all)."""
    bar = progress_bar(desc=name, unit=unit)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def drawing_parser(
    description: str | None, num_train: int, num_val: int, short_side: tuple[int, int]
) -> argparse.ArgumentParser:
    """The arguments of every script that draws a dataset.

    Args:
        description: the script's own.
        num_train: default number of training images.
        num_val: default number of validation images.
        short_side: default range of the images' shorter side, pixels.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    low, high = short_side
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="folder of all datasets (default: $DETECTRON2_DATASETS or 'datasets')",
    )
    parser.add_argument(
        "--num-train", type=int, default=num_train, help=f"images (default: {num_train})"
    )
    parser.add_argument("--num-val", type=int, default=num_val, help=f"images (default: {num_val})")
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
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a dataset that was made with other arguments",
    )
    return parser


def prepare(arguments: argparse.Namespace) -> None:
    """Draw both splits."""
    config = replace(SceneConfig(), short_side=tuple(arguments.image_size))
    for split, num_images in (("train", arguments.num_train), ("val", arguments.num_val)):
        start = time.monotonic()
        json_file = write_synthetic_people(
            arguments.root,
            split,
            num_images,
            arguments.seed,
            config=config,
            num_workers=arguments.workers,
            overwrite=arguments.overwrite,
            progress=progress_of(split),
        )
        print(f"{json_file} is complete ({time.monotonic() - start:.0f} s)", flush=True)


def run(prepare: Callable[[], None]) -> None:
    """Run, and tell the user's errors without a traceback."""
    # A plain kill ends the worker processes, too: it becomes an exception that closes the pool.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        prepare()
    except LockHeldError as error:
        sys.exit(f"error: {error} writes into the same folder; wait for it, or name another --root")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


def main() -> None:
    """Read the command line and draw."""
    parser = drawing_parser(__doc__, 1200, 200, SceneConfig().short_side)
    run(lambda: prepare(parser.parse_args()))


if __name__ == "__main__":
    main()
