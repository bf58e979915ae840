"""Precision and recall of boundaries and of occlusion, over thresholds, as in the BSDS benchmark.

`count_edges` counts the pixels of one image, in a worker process; the other functions sum them up.

Letters: N images, T thresholds, ascending. Counts are numbers of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from d2_multitask.data.labels.base import IGNORE_VALUE
from d2_multitask.evaluation.boundary.matching import BoundaryMatcher, disc_kernel
from d2_multitask.evaluation.boundary.thinning import thin

# Points between two thresholds at which the curve is interpolated, as in BSDS' `maxF`.
_STEPS = np.linspace(0, 1, 100)


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
    """Numbers of pixels of one image; ``None`` = not labelled or not predicted.

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

    Boundary and occlusion use the same thresholded and thinned map. The labels are thinned too, so
    that a perfect prediction of a line of two pixels' width is perfect.
    """
    directions = None
    if job.field is not None and job.occlusion is not None:
        right = _within_90_degrees(job.field, job.occlusion)
        directions = np.array([right.sum(), (job.occlusion != 0).any(axis=0).sum()])
    if job.probability is None:
        return EdgeCounts(None, None, directions)
    counters: dict[str, _BoundaryCounter | _OcclusionCounter] = {}
    if job.boundary is not None:
        counters["boundary"] = _BoundaryCounter(job)
    if directions is not None:
        counters["occlusion"] = _OcclusionCounter(job)
    columns: dict[str, list[tuple[int, ...]]] = {name: [] for name in counters}
    known = -1
    for threshold in job.thresholds:
        above = job.probability >= threshold
        num_above = np.count_nonzero(above)
        if num_above != known:  # otherwise the same pixels: higher thresholds only remove some
            known, pixels = num_above, np.flatnonzero(thin(above))
            counts = {name: counter.count(pixels) for name, counter in counters.items()}
        for name, column in columns.items():
            column.append(counts[name])
    arrays = {name: np.array(column, dtype=np.int64).T for name, column in columns.items()}
    return EdgeCounts(arrays.get("boundary"), arrays.get("occlusion"), directions)


class MultiLabelMatcher:
    """Matches boundaries with those that several people labelled, as in BSDS.

    A predicted pixel is correct if it has a partner in the label of one person; found pixels are
    counted for each person. Labels are not thinned.
    """

    def __init__(self, labels: Sequence[np.ndarray], max_distance: float) -> None:
        """
        Args:
            labels: (H, W) bool, of each person.
            max_distance: of a pair, as a share of the image's diagonal.
        """
        radius = max_distance * float(np.hypot(*labels[0].shape))
        self._shape = labels[0].shape
        self._matchers = [BoundaryMatcher(label, radius) for label in labels]

    def count(self, predicted: np.ndarray) -> tuple[int, int, int, int]:
        """Thin a predicted map (H, W) bool and count its pixels: the fields of `PixelCounts`.

        Raises:
            ValueError: the map has another shape than the labels.
        """
        if predicted.shape != self._shape:
            raise ValueError(
                f"segments: found shape {predicted.shape}, expected {self._shape} as the labels"
            )
        pixels = np.flatnonzero(thin(predicted))
        pairs = [matcher.match(pixels) for matcher in self._matchers]
        correct = np.zeros(predicted.size, bool)
        for pair in pairs:
            correct[pair.predicted] = True
        labelled = sum(matcher.num_labelled for matcher in self._matchers)
        found = sum(len(pair.labelled) for pair in pairs)
        return int(np.count_nonzero(correct)), labelled, len(pixels), found


class _BoundaryCounter:
    """Matches with the boundary label."""

    def __init__(self, job: EdgeJob) -> None:
        self._matcher = BoundaryMatcher(thin(job.boundary == 1), _radius(job))
        self._ignored = (job.boundary == IGNORE_VALUE).ravel()

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
        right = _within_90_degrees(
            self._field[:, pairs.predicted], self._labels[:, pairs.labelled]
        ).sum()
        # Matched pixels are counted everywhere; others only where they must be wrong.
        unknown = self._unknown[pixels].sum() - self._unknown[pairs.predicted].sum()
        matched, num_labelled = len(pairs.predicted), self._matcher.num_labelled
        return int(right), matched, num_labelled, len(pixels), len(pixels) - int(unknown)


def _radius(job: EdgeJob) -> float:
    """Largest distance of a pair, pixels."""
    return job.max_distance * float(np.hypot(*job.probability.shape))


def _within_90_degrees(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether vectors (2, ...) differ by at most a right angle; a vector of 0 never agrees."""
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
    near = cv2.dilate(rest.astype(np.uint8), disc_kernel(radius)) > 0
    return near | (boundary == IGNORE_VALUE)


class PixelCounts(NamedTuple):
    """Counts for precision and recall, (N, T) or (T,) each.

    Attributes:
        correct: predicted pixels with a labelled partner.
        labelled: labelled pixels.
        predicted: predicted pixels.
        found: labelled pixels with a predicted partner; ``None`` = ``correct``. They differ where
            several people labelled an image.
    """

    correct: np.ndarray
    labelled: np.ndarray
    predicted: np.ndarray
    found: np.ndarray | None = None

    @property
    def recall(self) -> np.ndarray:
        """Found of labelled; 0 where nothing is labelled."""
        found = self.correct if self.found is None else self.found
        return found / np.maximum(self.labelled, 1)

    @property
    def precision(self) -> np.ndarray:
        """Correct of predicted; 0 where nothing is predicted."""
        return self.correct / np.maximum(self.predicted, 1)

    @property
    def f_measure(self) -> np.ndarray:
        """Harmonic mean of precision and recall."""
        return _harmonic_mean(self.precision, self.recall)

    def over_images(self) -> PixelCounts:
        """(N, T) -> (T,), summed."""
        return PixelCounts(*(None if count is None else count.sum(axis=0) for count in self))


def even_thresholds(number: int) -> np.ndarray:
    """``number`` thresholds inside (0, 1) in even steps, as BSDS sets them.

    Raises:
        ValueError: fewer than one.
    """
    if number < 1:
        raise ValueError(f"number of thresholds: found {number}, expected 1 or more")
    return np.arange(1, number + 1) / (number + 1)


def summarize(counts: PixelCounts) -> dict[str, float]:
    """The benchmark's three numbers, in 0-100; NaN without any labelled pixel.

    - ``ODS-F``: best F-measure with one threshold for all images, interpolated between thresholds;
    - ``OIS-F``: F-measure with each image's own best threshold; of equally good ones, that with the
      fewest predicted pixels;
    - ``AP``: area under precision over recall, see `average_precision`.

    Args:
        counts: (N, T).
    """
    total = counts.over_images()
    if not total.labelled.any():
        return dict.fromkeys(("ODS-F", "OIS-F", "AP"), float("nan"))
    # Where nothing is labelled every threshold has an F-measure of 0; the best predicts the least.
    order = np.lexsort((counts.predicted, -counts.f_measure), axis=1)
    best, rows = order[:, 0], np.arange(len(order))
    own = PixelCounts(*(c if c is None else c[rows, best] for c in counts)).over_images()
    return {
        "ODS-F": 100 * best_f_measure(total),
        "OIS-F": 100 * float(own.f_measure),
        "AP": 100 * average_precision(total),
    }


def best_f_measure(total: PixelCounts) -> float:
    """Highest F-measure, with precision and recall interpolated between neighbouring thresholds.

    Args:
        total: (T,).
    """
    precision, recall = _between(total.precision), _between(total.recall)
    return float(_harmonic_mean(precision, recall).max())


def average_precision(total: PixelCounts) -> float:
    """Area under precision over recall, in steps of 0.01 of recall.

    Precision is interpolated linearly between measured points and 0 beyond the highest recall, as
    in BSDS. Differences: of points with equal recall the best precision counts; and below the
    lowest measured recall its precision is used, where BSDS uses 0. (There a perfect map of zeros
    and ones, whose curve is a single point, has an area of 0.)

    Args:
        total: (T,).
    """
    measured = total.predicted > 0
    if not measured.any():
        return 0.0
    recall, group = np.unique(total.recall[measured], return_inverse=True)
    precision = np.zeros(len(recall))
    np.maximum.at(precision, group, total.precision[measured])
    grid = np.linspace(0, 1, 101)
    # Rounding must not put the last grid point beyond a recall of 1.
    values = np.interp(grid, recall, precision)
    return float(np.where(grid <= recall[-1] + 1e-12, values, 0.0).mean())


def occlusion_metrics(counts: np.ndarray) -> dict[str, float]:
    """Metrics of occlusion orientation, in 0-100, after Wang and Yuille (DOC, ECCV 2016).

    - ``orientation-accuracy``: of the predicted pixels that match an occlusion boundary, those
      whose direction is within 90 degrees of the label's, at the threshold that finds the
      occlusion boundaries best;
    - ``ODS-F``, ``OIS-F``, ``AP``: as for boundaries, where a matched pixel is correct only if
      its direction is (orientation precision-recall, "OPR"). Predicted pixels at a labelled
      boundary without a direction label are ignored;
    - ``ODS-F-strict``: the same with them as errors, as in the benchmark's own code;
    - ``boundary-ODS-F``: of finding the occlusion boundaries, whatever the direction;
    - ``AOR``: accuracy over recall: the mean of the accuracy at recalls of 1, 2, ... percent, as
      far as the recall of matched pixels goes.

    Args:
        counts: (5, N, T) of `EdgeCounts.occlusion`.
    """
    right, matched, labelled, predicted, known = counts
    if not labelled.any():
        names = ("orientation-accuracy", "ODS-F", "OIS-F", "AP", "ODS-F-strict")
        return dict.fromkeys((*names, "boundary-ODS-F", "AOR"), float("nan"))
    detection = PixelCounts(matched, labelled, known).over_images()
    best = int(detection.f_measure.argmax())
    strict = PixelCounts(right, labelled, predicted).over_images()
    return {
        "orientation-accuracy": percent(right.sum(axis=0)[best], matched.sum(axis=0)[best]),
        **summarize(PixelCounts(right, labelled, known)),
        "ODS-F-strict": 100 * best_f_measure(strict),
        "boundary-ODS-F": 100 * best_f_measure(detection),
        "AOR": _accuracy_over_recall(right.sum(axis=0), detection),
    }


def _accuracy_over_recall(right: np.ndarray, detection: PixelCounts) -> float:
    found = detection.correct > 0
    if not found.any():
        return float("nan")
    recall, accuracy = detection.recall[found], right[found] / detection.correct[found]
    grid = np.arange(0.01, recall.max(), 0.01)
    if not len(grid):
        return 100 * float(accuracy.mean())
    order = np.argsort(recall, kind="stable")
    return 100 * float(np.interp(grid, recall[order], accuracy[order]).mean())


def percent(part: float, whole: float) -> float:
    """NaN for a part of nothing."""
    return 100 * float(part) / float(whole) if whole else float("nan")


def _between(values: np.ndarray) -> np.ndarray:
    """Values at thresholds -> also at points between them."""
    if len(values) == 1:
        return values
    return (values[:-1, None] * (1 - _STEPS) + values[1:, None] * _STEPS).ravel()


def _harmonic_mean(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
