"""Draw synthetic videos with true identities: people who walk, cross and cover each other.

Writes <root>/synthetic_videos: PNG frames, 25 a second, and a COCO-format JSON file with "videos",
track ids, boxes, masks, keypoints and their visibility. It is a test set for tools/track.py
--evaluate, which need not be trained on. It is safe to interrupt and to repeat.

    python datasets/prepare_synthetic_videos.py
    python datasets/prepare_synthetic_videos.py --split tuning --seed 1
    python datasets/prepare_synthetic_videos.py --split crowded --people 4 5
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from prepare_synthetic_people import progress_of, run
from synthetic.videos import VideoConfig, write_synthetic_videos


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="folder of all datasets (default: $DETECTRON2_DATASETS or 'datasets')",
    )
    parser.add_argument("--split", default="test", help="its name (default: test)")
    parser.add_argument("--seed", type=int, default=0, help="other seed, other videos (default: 0)")
    parser.add_argument("--num-videos", type=int, default=12, help="default: 12")
    parser.add_argument(
        "--num-frames", type=int, default=VideoConfig().num_frames, help="of each (default: 150)"
    )
    parser.add_argument(
        "--people",
        type=int,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=VideoConfig().people,
        help="range of the number of people; the more, the more they cover each other",
    )
    parser.add_argument(
        "--workers", type=int, default=min(os.cpu_count() or 1, 8), help="processes"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a split made with other arguments"
    )
    return parser


def prepare(arguments: argparse.Namespace) -> None:
    """Draw the split."""
    if arguments.num_frames < 1:
        raise ValueError(f"--num-frames: found {arguments.num_frames}, expected at least 1")
    low, high = arguments.people
    if not 0 <= low <= high:
        raise ValueError(f"--people: found {low} {high}, expected 0 <= LOW <= HIGH")
    config = VideoConfig(num_frames=arguments.num_frames, people=(low, high))
    json_file = write_synthetic_videos(
        arguments.root,
        arguments.split,
        arguments.num_videos,
        arguments.seed,
        config=config,
        num_workers=arguments.workers,
        overwrite=arguments.overwrite,
        progress=progress_of(arguments.split, "video"),
    )
    print(f"{json_file} is complete", flush=True)


def main() -> None:
    """Read the command line and draw."""
    run(lambda: prepare(make_parser().parse_args()))


if __name__ == "__main__":
    main()
