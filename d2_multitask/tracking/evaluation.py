"""Labelled videos: frame by frame against tracked."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2_multitask.runtime.files import read_image
from d2_multitask.runtime.result import Result
from d2_multitask.tracking.scores import (
    MATCH_IOU,
    FrameTracks,
    FrameTruth,
    track_scores,
)
from d2_multitask.tracking.similarity import box_iou
from d2_multitask.tracking.tracker import Tracker, TrackerSettings, assign


class Video(NamedTuple):
    """Frame rate, and path and truth of each frame."""

    fps: float
    frames: list[tuple[Path, FrameTruth]]


def read_videos(annotations: Path, folder: Path) -> list[Video]:
    """Videos of a COCO-format file with ``videos`` and ``track_id``.

    Args:
        annotations: as ``datasets/prepare_synthetic_videos.py`` writes it.
        folder: of the frames.

    Raises:
        ValueError: it is not JSON, or a field is missing.
    """
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        labels: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for label in content["annotations"]:
            labels[label["image_id"]].append(label)
        frames: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for image in sorted(content["images"], key=lambda image: image["frame_id"]):
            frames[image["video_id"]].append(image)
        return [
            Video(
                float(video.get("fps", 25)),
                [
                    (folder / image["file_name"], _truth(labels[image["id"]]))
                    for image in frames[video["id"]]
                ],
            )
            for video in content["videos"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{annotations}: found {type(error).__name__} {error}, expected COCO's format with "
            "videos, images with video_id and frame_id, annotations with track_id"
        ) from error


def _truth(labels: list[dict[str, Any]]) -> FrameTruth:
    boxes = np.array([label["bbox"] for label in labels], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    ignore = [bool(label.get("ignore") or label.get("iscrowd")) for label in labels]
    ids = np.array([label["track_id"] for label in labels], np.int64)
    return FrameTruth(boxes, ids, np.array(ignore, bool))


def compare(
    predict: Callable[[np.ndarray], Result],
    videos: Iterable[Video],
    settings: TrackerSettings | None = None,
) -> Iterator[tuple[int, dict[str, dict[str, float]]]]:
    """Track labelled videos.

    Args:
        predict: image (h, w, 3) BGR -> its result.
        videos: see `read_videos`.
        settings: of the tracker.

    Yields:
        After each video how many there were, and the `track_scores` so far of: ``frame by frame``,
        whose identities are the places of the detections by score; ``tracked``; and ``true
        identities``, the same detections with the identities of the objects that they are, which
        is the most that a tracker could reach.
    """
    settings = settings or TrackerSettings()
    truth: list[list[FrameTruth]] = []
    kinds: dict[str, list[list[FrameTracks]]] = {
        name: [] for name in ("frame by frame", "tracked", "true identities")
    }
    for video in videos:
        truth.append([labels for _, labels in video.frames])
        tracker = Tracker(video.fps, settings)
        for frames in kinds.values():
            frames.append([])
        for path, labels in video.frames:
            image = read_image(path)
            result = predict(image)
            found = result.confident(settings.high)
            tracked = tracker.update(result, image)
            rows, columns = assign(box_iou(labels.boxes, found.boxes), MATCH_IOU)
            answers = (
                FrameTracks(found.boxes, np.arange(len(found))),
                FrameTracks(tracked.boxes, tracked.track_ids),
                FrameTracks(found.boxes[columns], labels.ids[rows]),
            )
            for frames, answer in zip(kinds.values(), answers, strict=True):
                frames[-1].append(answer)
        yield len(truth), {name: track_scores(truth, frames) for name, frames in kinds.items()}
