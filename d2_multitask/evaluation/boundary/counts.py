"""Pixels counted in one image for the boundary and the occlusion metric; runs in a worker process.

Both threshold and thin the same predicted map, so they are counted together.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from d2_multitask.evaluation.boundary.matching import BoundaryMatcher, PixelPairs, disc_offsets
from d2_multitask.evaluation.boundary.thinning import thin

IGNORED = 255


class EdgeJob(NamedTuple):
    """Predictions and labels of one image; ``None`` = not predicted, not labelled.

    Attributes:
        thresholds: (T,) ascending.
        max_distance: of a pair, as a share of the image's diagonal.
        probability: (H, W) float, of a boundary.
        field: (2, H, W) float, vector (x, y) towards the object in front, of any length.
        boundary: (H, W) uint8, 1 = boundary, 255 = ignored.
        occlusion: (2, H, W) float, unit vectors at the labelled pixels, 0 elsewhere.
    """

    thresholds: np.ndarray
    max_distance: float
    probability: np.ndarray | None
    field: np.ndarray | None
    boundary: np.ndarray | None
    occlusion: np.ndarray | None


class EdgeCounts(NamedTuple):
    """Numbers of pixels of one image; ``None`` for what is not labelled or not predicted.

    Attributes:
        boundary: (3, T) matched, labelled, predicted.
        occlusion: (5, T) matched with the right direction, matched, labelled, predicted, and
            predicted without those at boundaries that have no direction label.
        directions: (2,) labelled pixels where the field has the right direction, labelled pixels.
    """

    boundary: np.ndarray | None
    occlusion: np.ndarray | None
    directions: np.ndarray | None


def count_edges(job: EdgeJob) -> EdgeCounts:
    """Match the predicted boundary at every threshold with the labelled ones.

    At each threshold the map is thinned, as BSDS does; the labels are thinned too, once, so that a
    perfect prediction of a line that is two pixels wide is perfect.
    """
    directions = None
    if job.field is not None and job.occlusion is not None:
        right, labelled = _right_directions(job.field, job.occlusion)
        directions = np.array([(right & labelled).sum(), labelled.sum()])
    if job.probability is None:
        return EdgeCounts(None, None, directions)
    boundary = _BoundaryCounter(job) if job.boundary is not None else None
    occlusion = _OcclusionCounter(job) if directions is not None else None
    counters = [counter for counter in (boundary, occlusion) if counter is not None]
    columns: list[list[tuple[int, ...]]] = [[] for _ in counters]
    known = -1
    for threshold in job.thresholds:
        above = job.probability >= threshold
        num_above = np.count_nonzero(above)
        if num_above != known:  # otherwise the same pixels: higher thresholds only take some away
            known, pixels = num_above, np.flatnonzero(thin(above))
            counts = [counter.count(pixels) for counter in counters]
        for column, count in zip(columns, counts, strict=True):
            column.append(count)
    arrays = iter([np.array(column, dtype=np.int64).T for column in columns])
    return EdgeCounts(
        next(arrays) if boundary is not None else None,
        next(arrays) if occlusion is not None else None,
        directions,
    )


class _BoundaryCounter:
    """Matches with the boundary label."""

    def __init__(self, job: EdgeJob) -> None:
        self._matcher = BoundaryMatcher(thin(job.boundary == 1), _radius(job))
        self._ignored = (job.boundary == IGNORED).ravel()

    def count(self, pixels: np.ndarray) -> tuple[int, ...]:
        """Matched, labelled, predicted."""
        pixels = pixels[~self._ignored[pixels]]
        matched = len(self._matcher.match(pixels).predicted)
        return matched, self._matcher.num_labelled, len(pixels)


class _OcclusionCounter:
    """Matches with the pixels of the occlusion fragments and compares directions."""

    def __init__(self, job: EdgeJob) -> None:
        radius = _radius(job)
        has_direction = (job.occlusion != 0).any(axis=0)
        self._matcher = BoundaryMatcher(thin(has_direction), radius)
        self._field = job.field.reshape(2, -1)
        self._labels = job.occlusion.reshape(2, -1)
        self._unknown = _without_direction(job.boundary, has_direction, radius).ravel()

    def count(self, pixels: np.ndarray) -> tuple[int, ...]:
        """Right direction, matched, labelled, predicted, predicted where directions are known."""
        pairs = self._matcher.match(pixels)
        right = self._right(pairs)
        matched = len(pairs.predicted)
        # A matched pixel counts wherever it is; of the others only those that must be wrong.
        unknown = self._unknown[pixels].sum() - self._unknown[pairs.predicted].sum()
        num_labelled = self._matcher.num_labelled
        return right, matched, num_labelled, len(pixels), len(pixels) - int(unknown)

    def _right(self, pairs: PixelPairs) -> int:
        predicted, labelled = self._field[:, pairs.predicted], self._labels[:, pairs.labelled]
        return int(_within_90_degrees(predicted, labelled).sum())


def _radius(job: EdgeJob) -> float:
    """Largest distance of a pair, pixels."""
    return job.max_distance * float(np.hypot(*job.probability.shape))


def _right_directions(field: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bool each: direction right, direction labelled."""
    return _within_90_degrees(field, labels), (labels != 0).any(axis=0)


def _within_90_degrees(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether vectors (2, ...) differ by at most a right angle; no direction is never right."""
    product = first[0] * second[0] + first[1] * second[1]
    return (product >= 0) & (first != 0).any(axis=0) & (second != 0).any(axis=0)


def _without_direction(
    boundary: np.ndarray | None, has_direction: np.ndarray, radius: float
) -> np.ndarray:
    """(H, W) bool: within the distance of a labelled boundary that has no direction label."""
    if boundary is None:
        return np.zeros(has_direction.shape, dtype=bool)
    # Fragments are one pixel wide, boundaries perhaps three: their neighbours belong to them.
    near_fragment = cv2.dilate(has_direction.astype(np.uint8), np.ones((3, 3), np.uint8))
    rest = (boundary == 1) & (near_fragment == 0)
    reach = int(radius)
    disc = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
    disc[tuple((disc_offsets(radius) + reach).T)] = 1
    return (cv2.dilate(rest.astype(np.uint8), disc) > 0) | (boundary == IGNORED)
