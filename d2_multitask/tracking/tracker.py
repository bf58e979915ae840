"""Tracking by detection: ByteTrack's association over boxes and keypoints.

Y. Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022.
Confident detections are matched with all tracks, lost ones included; what is left of the tracks
that were seen in the frame before is matched with the weak detections; and confident detections
that are left begin a track, which gets its identity when the next frame confirms it. Instead of
IoU alone the similarity is a mix with COCO's OKS, because boxes of people who cover each other
overlap while their keypoints do not; and it falls where the colours along the limbs differ, as
motion alone does not tell who comes out from behind whom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from d2_multitask.runtime.result import Result
from d2_multitask.tracking import kalman
from d2_multitask.tracking.colours import ADAPTATION, likeness, limb_colours
from d2_multitask.tracking.similarity import box_areas, box_iou, keypoint_similarity
from d2_multitask.tracking.smoothing import Smooth, smooth

# These, and the defaults of the settings, were chosen on synthetic videos of another seed than the
# reported ones. Least similarity of a track and a confident, or a weak, detection:
MATCH, WEAK_MATCH = 0.15, 0.25
KEEP_SECONDS = 2.0  # how long a track that is not seen is kept
DUPLICATE = 0.7  # IoU with a track seen in the frame, from which on a detection begins none
COVERED = 0.25  # IoU with another detection, from which on colours are not remembered


@dataclass(frozen=True)
class TrackerSettings:
    """What may be chosen.

    Attributes:
        high: score of a detection that may begin a track.
        low: score of the weakest detection that may continue one.
        keypoint_share: weight of OKS in the similarity, where there are keypoints.
        smoothing: whether keypoints are smoothed.
    """

    high: float = 0.4
    low: float = 0.2
    keypoint_share: float = 0.5
    smoothing: bool = True


class _Found(NamedTuple):
    """n detections of a frame."""

    boxes: np.ndarray  # (n, 4)
    scores: np.ndarray  # (n,)
    classes: np.ndarray  # (n,)
    keypoints: np.ndarray  # (n, K, 3); K is 0 without keypoints
    colours: np.ndarray  # (n, L, 3) of the limbs; L is 0 without an image

    def select(self, chosen: np.ndarray) -> _Found:
        return _Found(*(value[chosen] for value in self))


class _Tracks(NamedTuple):
    """n tracks."""

    motion: kalman.Motion
    ids: np.ndarray  # (n,) int64, 0 = not confirmed yet
    classes: np.ndarray  # (n,)
    missed: np.ndarray  # (n,) frames since it was seen
    keypoints: np.ndarray  # (n, K, 3) as last seen, moved along with the box
    colours: np.ndarray  # (n, L, 3) as remembered
    smooth: Smooth

    def select(self, chosen: np.ndarray) -> _Tracks:
        return _Tracks(*(_select(value, chosen) for value in self))

    def joined(self, other: _Tracks) -> _Tracks:
        return _Tracks(*(_joined(pair) for pair in zip(self, other, strict=True)))

    def put(self, places: np.ndarray, new: _Tracks) -> None:
        """Replace the tracks at some places."""
        for old, value in zip(_flat(self), _flat(new), strict=True):
            old[places] = value


class Tracker:
    """Gives the objects of successive frames identities, and smooths their keypoints.

    Args:
        fps: frames a second; times of tracks and the smoothing are in seconds.
        settings: see `TrackerSettings`.
    """

    def __init__(self, fps: float = 25.0, settings: TrackerSettings | None = None) -> None:
        self.fps, self.settings = fps, settings or TrackerSettings()
        self._tracks: _Tracks | None = None  # before the first frame
        self._next_id = 1

    def update(self, result: Result, image: np.ndarray | None = None, frames: int = 1) -> Result:
        """Track one more frame.

        Args:
            result: of the frame, all objects down to ``settings.low``.
            image: (h, w, 3) uint8, the frame; the colours of limbs help to tell people apart.
            frames: since the last one; more than 1 after dropped frames.

        Returns:
            The objects that belong to a track, with ``track_ids`` and smooth ``keypoints``; boxes
            and scores are as they were found.

        Raises:
            ValueError: the result has no boxes.
        """
        if result.scores is None or result.boxes is None:
            raise ValueError(
                "tracking: found a result without objects, expected a network that finds some and "
                "a task such as 'det' or 'pose'"
            )
        places = np.flatnonzero(result.scores >= self.settings.low)
        found = _found(result.select(places), image)
        if self._tracks is None:
            tracks, track_of = self._first_frame(found)
        else:
            tracks, track_of = self._next_frame(self._tracks, found, _sigmas(result), frames)
        self._tracks = tracks
        named = np.flatnonzero(track_of >= 0)
        named = named[tracks.ids[track_of[named]] > 0]
        answer = result.select(places[named])
        answer.track_ids = tracks.ids[track_of[named]]
        if result.keypoints is not None and self.settings.smoothing:
            answer.keypoints[..., :2] = tracks.smooth.points[track_of[named]]
        return answer

    def _first_frame(self, found: _Found) -> tuple[_Tracks, np.ndarray]:
        """All confident detections are tracks."""
        track_of = np.full(len(found.scores), -1)
        begun = self._beginners(found, track_of, box_iou(found.boxes, found.boxes))
        track_of[begun] = np.arange(len(begun))
        tracks = _new_tracks(found.select(begun))
        return tracks._replace(ids=self._new_ids(len(begun))), track_of

    def _next_frame(
        self, tracks: _Tracks, found: _Found, sigmas: np.ndarray, frames: int
    ) -> tuple[_Tracks, np.ndarray]:
        """The tracks after the frame, and of each detection the track's place, -1 = none."""
        recent = tracks.missed == 0
        tracks = _moved(tracks, frames)
        similarity = self._similarity(tracks, found, sigmas)
        track_of = self._associate(tracks.ids > 0, recent, found, similarity)
        seen = np.flatnonzero(track_of >= 0)
        places = track_of[seen]
        overlaps = box_iou(found.boxes, found.boxes)
        covered = (overlaps >= COVERED).sum(0)[seen] > 1
        tracks.put(places, self._corrected(tracks.select(places), found.select(seen), covered))
        longest = np.where(tracks.ids > 0, KEEP_SECONDS * self.fps, 0)
        alive = tracks.missed <= longest
        track_of[seen] = (np.cumsum(alive) - 1)[places]
        tracks = tracks.select(alive)
        begun = self._beginners(found, track_of, overlaps)
        track_of[begun] = len(tracks.ids) + np.arange(len(begun))
        return tracks.joined(_new_tracks(found.select(begun))), track_of

    def _similarity(self, tracks: _Tracks, found: _Found, sigmas: np.ndarray) -> np.ndarray:
        """(tracks, detections), 0 for different classes."""
        boxes = tracks.motion.boxes
        similarity = box_iou(boxes, found.boxes)
        if len(sigmas):
            areas = box_areas(boxes)
            oks = keypoint_similarity(tracks.keypoints, found.keypoints, areas, sigmas)
            similarity += self.settings.keypoint_share * (oks - similarity)
        similarity *= likeness(tracks.colours, found.colours)
        return similarity * (tracks.classes[:, None] == found.classes)

    def _associate(
        self, named: np.ndarray, recent: np.ndarray, found: _Found, similarity: np.ndarray
    ) -> np.ndarray:
        """(n,) the place of each detection's track, -1 = none.

        Args:
            named: (tracks,) bool, has an identity.
            recent: (tracks,) bool, was seen in the frame before.
            found: n detections.
            similarity: (tracks, n).
        """
        settings = self.settings
        track_of = np.full(len(found.scores), -1)
        strong = found.scores >= settings.high
        for chosen, detections, least in (
            (named, strong, MATCH),
            (named & recent, ~strong, WEAK_MATCH),
            (~named, strong, MATCH),
        ):
            free = chosen.copy()
            free[track_of[track_of >= 0]] = False
            rows, columns = np.flatnonzero(free), np.flatnonzero(detections & (track_of < 0))
            pairs = assign(similarity[np.ix_(rows, columns)], least)
            track_of[columns[pairs[1]]] = rows[pairs[0]]
        return track_of

    def _corrected(self, tracks: _Tracks, found: _Found, covered: np.ndarray) -> _Tracks:
        """Tracks after what was found of each; those without a name get one."""
        change = np.where(covered, 0.0, ADAPTATION)[:, None, None]
        ids = tracks.ids.copy()
        ids[ids == 0] = self._new_ids(np.count_nonzero(ids == 0))
        heights = found.boxes[:, 3] - found.boxes[:, 1]
        return _Tracks(
            kalman.update(tracks.motion, found.boxes),
            ids,
            found.classes,
            np.zeros_like(tracks.missed),
            found.keypoints,
            tracks.colours + change * (found.colours - tracks.colours),
            smooth(tracks.smooth, found.keypoints, heights, tracks.missed, self.fps),
        )

    def _beginners(self, found: _Found, track_of: np.ndarray, overlaps: np.ndarray) -> np.ndarray:
        """Places of the detections that begin a track: confident, and no second find of an object.

        Args:
            found: the detections.
            track_of: (n,) -1 = without a track.
            overlaps: (n, n) IoU of the detections.
        """
        free = np.flatnonzero((track_of < 0) & (found.scores >= self.settings.high))
        free = free[np.argsort(-found.scores[free], kind="stable")]
        others = np.flatnonzero(track_of >= 0)
        order = np.concatenate((others, free))
        near = overlaps[np.ix_(order, order)] >= DUPLICATE
        twice = np.triu(near, 1).any(0)  # something better is near
        return free[~twice[len(others) :]]

    def _new_ids(self, count: int) -> np.ndarray:
        self._next_id += count
        return np.arange(self._next_id - count, self._next_id)


def assign(similarity: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows and columns with the greatest sum, none below ``least``."""
    value = np.where(similarity >= least, similarity, 0.0)
    rows, columns = linear_sum_assignment(value, maximize=True)
    good = value[rows, columns] > 0
    return rows[good], columns[good]


def _found(result: Result, image: np.ndarray | None) -> _Found:
    count, points = len(result), result.keypoints
    if points is None:
        points = np.zeros((count, 0, 3), np.float32)
    colours = np.zeros((count, 0, 3))
    skeleton = result.info.objects.skeleton if image is not None else ()
    if skeleton and result.keypoints is not None:
        colours = limb_colours(image, points, np.array(skeleton))
    return _Found(result.boxes, result.scores, result.classes, points, colours)


def _new_tracks(found: _Found) -> _Tracks:
    count = len(found.scores)
    points = found.keypoints[..., :2].astype(np.float64)
    return _Tracks(
        kalman.start(found.boxes),
        np.zeros(count, np.int64),
        found.classes,
        np.zeros(count, np.int64),
        found.keypoints,
        found.colours,
        Smooth(points, np.zeros_like(points)),
    )


def _moved(tracks: _Tracks, frames: int) -> _Tracks:
    """Some frames later; keypoints go with the box."""
    motion = tracks.motion
    for _ in range(frames):
        motion = kalman.predict(motion, tracks.missed > 0)
    keypoints = tracks.keypoints.copy()
    keypoints[..., :2] += (motion.mean[:, :2, 0] - tracks.motion.mean[:, :2, 0])[:, None]
    return tracks._replace(motion=motion, keypoints=keypoints, missed=tracks.missed + frames)


def _sigmas(result: Result) -> np.ndarray:
    """(K,) of the keypoints, which count alike where the network does not say."""
    if result.keypoints is None:
        return np.zeros(0)
    sigmas = result.info.objects.keypoint_sigmas
    return np.array(sigmas) if sigmas else np.full(result.keypoints.shape[1], 0.07)


Nested = np.ndarray | tuple[np.ndarray, ...]


def _select(value: Nested, chosen: np.ndarray) -> Nested:
    return type(value)(*(v[chosen] for v in value)) if isinstance(value, tuple) else value[chosen]


def _joined(pair: tuple[Nested, Nested]) -> Nested:
    if isinstance(pair[0], tuple):
        return type(pair[0])(*(np.concatenate(values) for values in zip(*pair, strict=True)))
    return np.concatenate(pair)


def _flat(tracks: _Tracks) -> list[np.ndarray]:
    return [*tracks.motion, *tracks[1:-1], *tracks.smooth]
