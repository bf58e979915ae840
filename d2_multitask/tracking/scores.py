"""MOTA, IDF1 and HOTA of tracks, by the library trackeval (TrackEval)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from d2_multitask.tracking.similarity import box_iou
from d2_multitask.tracking.tracker import assign

MATCH_IOU = 0.5


class FrameTruth(NamedTuple):
    """What is in a frame: boxes (n, 4) xyxy, ids (n,), and whether each is left out (n,) bool."""

    boxes: np.ndarray
    ids: np.ndarray
    ignore: np.ndarray


class FrameTracks(NamedTuple):
    """What a tracker says about a frame: boxes (n, 4) xyxy and ids (n,)."""

    boxes: np.ndarray
    ids: np.ndarray


def track_scores(
    truth: Sequence[Sequence[FrameTruth]], tracks: Sequence[Sequence[FrameTracks]]
) -> dict[str, float]:
    """Scores of several videos together.

    As in MOTChallenge, a predicted box that matches an object to be ignored is left out.

    Args:
        truth: for each video, each frame.
        tracks: likewise.

    Returns:
        In percent ``HOTA`` (mean over IoU thresholds 0.05 to 0.95), ``DetA``, ``AssA``, ``MOTA``
        and ``IDF1`` (IoU 0.5); as numbers ``IDSW`` (identity switches), ``FP`` and ``FN``.

    Raises:
        ImportError: trackeval is not installed.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its settings
            from trackeval.metrics import CLEAR, HOTA, Identity

            metrics = [HOTA(), CLEAR({"PRINT_CONFIG": False}), Identity({"PRINT_CONFIG": False})]
            sequences = [_sequence(*pair) for pair in zip(truth, tracks, strict=True)]
            scores = {}
            for metric in metrics:
                results = {str(k): metric.eval_sequence(s) for k, s in enumerate(sequences)}
                scores |= metric.combine_sequences(results)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error}; tracks are scored by trackeval: pip install trackeval"
        ) from error
    names = {"HOTA": "HOTA", "DetA": "DetA", "AssA": "AssA", "MOTA": "MOTA", "IDF1": "IDF1"}
    percent = {name: 100 * float(np.mean(scores[key])) for name, key in names.items()}
    counts = {"IDSW": "IDSW", "FP": "CLR_FP", "FN": "CLR_FN"}
    return percent | {name: int(scores[key]) for name, key in counts.items()}


def _sequence(truth: Sequence[FrameTruth], tracks: Sequence[FrameTracks]) -> dict[str, object]:
    """A video in trackeval's form: ids from 0, and the IoU of all pairs in each frame."""
    pairs = [_without_ignored(*pair) for pair in zip(truth, tracks, strict=True)]
    data: dict[str, object] = {"num_timesteps": len(pairs)}
    for kind, frames in (("gt", [t for t, _ in pairs]), ("tracker", [t for _, t in pairs])):
        ids = np.concatenate([np.zeros(0, np.int64), *(frame.ids for frame in frames)])
        known = np.unique(ids)
        data[f"{kind}_ids"] = [np.searchsorted(known, frame.ids) for frame in frames]
        data[f"num_{kind}_ids"], data[f"num_{kind}_dets"] = len(known), len(ids)
    data["similarity_scores"] = [box_iou(t.boxes, p.boxes) for t, p in pairs]
    return data


def _without_ignored(truth: FrameTruth, tracks: FrameTracks) -> tuple[FrameTruth, FrameTracks]:
    rows, columns = assign(box_iou(truth.boxes, tracks.boxes), MATCH_IOU)
    kept = np.ones(len(tracks.ids), bool)
    kept[columns[truth.ignore[rows]]] = False
    truth = FrameTruth(*(value[~truth.ignore] for value in truth))
    return truth, FrameTracks(*(value[kept] for value in tracks))
