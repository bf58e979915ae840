"""Write synthetic videos as PNG frames and one JSON file.

    <root>/synthetic_videos/
        annotations/videos_<split>.json    COCO's format, with "videos" and track ids
        <split>/000/000000.png             RGB, 25 frames a second

Contract: as of ``people.writer``: the JSON is written last, so it means that the split is complete.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from d2_multitask.data.whole_files import write_json, write_png
from synthetic.people.labels import person_category
from synthetic.split import Progress, as_json, check_drawing, check_split, write_once
from synthetic.videos.video import VideoConfig, draw_video
from synthetic.videos.walk import FPS

GENERATOR_VERSION = 1
"""Rises whenever the same arguments give other pixels or labels."""

FOLDER_NAME = "synthetic_videos"

_Entry = dict[str, Any]


@dataclass(frozen=True)
class _Split:
    """What to draw, and where."""

    folder: Path
    name: str
    num_videos: int
    seed: int
    config: VideoConfig

    @property
    def json_file(self) -> Path:
        return self.folder / "annotations" / f"videos_{self.name}.json"

    def frame_name(self, video: int, frame: int) -> str:
        """Below the folder of the split."""
        return f"{video:03d}/{frame:06d}.png"

    def frame_file(self, video: int, frame: int) -> Path:
        return self.folder / self.name / self.frame_name(video, frame)

    def arguments(self) -> dict[str, Any]:
        """All that decides the content."""
        return as_json(
            {
                "generator_version": GENERATOR_VERSION,
                "split": self.name,
                "num_videos": self.num_videos,
                "seed": self.seed,
                "video_config": asdict(self.config),
            }
        )


def write_synthetic_videos(
    root: Path,
    split: str,
    num_videos: int,
    seed: int,
    *,
    config: VideoConfig | None = None,
    num_workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Draw one split and write it below ``root / "synthetic_videos"``.

    Args:
        root: the folder of all datasets.
        split: any name of letters, digits and "_".
        num_videos: at least 1.
        seed: in [0, 2**32).
        config: settings; the defaults if None.
        num_workers: processes that draw; the result does not depend on it.
        overwrite: replace a split that was made with other arguments.
        progress: is called with (videos done, videos in all).

    Returns:
        The path of the JSON file. Annotations are COCO's, and have ``track_id``, which is unique
        in the file, and ``ignore``; see `draw_video`. Images have ``video_id`` and ``frame_id``,
        from 0.

    Raises:
        ValueError: for a bad argument, or if the split exists with other arguments and
            ``overwrite`` is False.
        LockHeldError: another process draws there.
    """
    check_split(split, num_videos)
    check_drawing(seed, num_workers)
    work = _Split(Path(root) / FOLDER_NAME, split, num_videos, seed, config or VideoConfig())
    frames = range(work.config.num_frames)
    return write_once(
        work.folder,
        work.json_file,
        work.arguments(),
        [work.frame_file(video, frame) for video in range(num_videos) for frame in frames],
        partial(_draw_one, work),
        num_videos,
        lambda drawn: write_json(work.json_file, _content(work, drawn)),
        num_workers=num_workers,
        overwrite=overwrite,
        progress=progress,
    )


def _draw_one(work: _Split, video: int) -> tuple[int, list[tuple[_Entry, list[_Entry]]]]:
    """Draw a video and write its frames; returns its number and, per frame, the JSON's entries."""
    kept = []
    frames = draw_video(work.seed, work.name, video, work.config)
    for frame, (picture, labels) in enumerate(frames):
        write_png(work.frame_file(video, frame), picture)
        image = {
            "file_name": work.frame_name(video, frame),
            "height": picture.shape[0],
            "width": picture.shape[1],
            "frame_id": frame,
        }
        kept.append((image, labels))
    return video, kept


def _content(work: _Split, drawn: list[list[tuple[_Entry, list[_Entry]]]]) -> _Entry:
    """The JSON file; images and annotations are numbered in the order of the videos."""
    images: list[_Entry] = []
    annotations: list[_Entry] = []
    first_track = 0
    for video_id, frames in enumerate(drawn, start=1):
        for image, found in frames:
            images.append({"id": len(images) + 1, "video_id": video_id, **image})
            for label in found:
                track_id = first_track + label["track_id"]
                number = {"id": len(annotations) + 1, "image_id": images[-1]["id"]}
                annotations.append({**number, "video_id": video_id, **label, "track_id": track_id})
        first_track = max((label["track_id"] for label in annotations), default=0)
    names = [f"{video:03d}" for video in range(work.num_videos)]
    return {
        "info": {
            "description": "Synthetic videos of people, drawn from a seed",
            "version": str(GENERATOR_VERSION),
            "arguments": work.arguments(),
        },
        "licenses": [],
        "categories": [person_category()],
        "videos": [
            {"id": number, "name": name, "fps": FPS, "length": work.config.num_frames}
            for number, name in enumerate(names, start=1)
        ],
        "images": images,
        "annotations": annotations,
    }
