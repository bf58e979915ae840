"""Boundary precision and recall over thresholds, summed up as in the BSDS benchmark.

Letters: N images, T thresholds, ascending. Counts are numbers of pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Points between two thresholds at which the curve is interpolated, as in BSDS' `maxF`.
_STEPS = np.linspace(0, 1, 100)


class PixelCounts(NamedTuple):
    """What precision and recall are made of, (N, T) or (T,) each.

    Attributes:
        correct: predicted pixels with a labelled partner; as many labelled pixels have one.
        labelled: labelled pixels.
        predicted: predicted pixels.
    """

    correct: np.ndarray
    labelled: np.ndarray
    predicted: np.ndarray

    @property
    def recall(self) -> np.ndarray:
        """Correct of labelled; 0 where nothing is labelled."""
        return self.correct / np.maximum(self.labelled, 1)

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
        return PixelCounts(*(count.sum(axis=0) for count in self))


def even_thresholds(number: int) -> np.ndarray:
    """``number`` thresholds inside (0, 1) in even steps, as BSDS sets them.

    Raises:
        ValueError: fewer than one.
    """
    if number < 1:
        raise ValueError(f"number of thresholds: found {number}, expected 1 or more")
    return np.arange(1, number + 1) / (number + 1)


def summarize(counts: PixelCounts) -> dict[str, float]:
    """The benchmark's three numbers, in 0-100; NaN if nothing is labelled.

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
    own = PixelCounts(*(count[rows, best].sum() for count in counts))
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
    in BSDS. Differences: of points with one recall the best precision counts; and down to recall 0
    the precision of the lowest measured recall holds, where BSDS puts 0. (There a perfect map of
    zeros and ones, whose curve is a single point, gets an area of 0.)

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


def _between(values: np.ndarray) -> np.ndarray:
    """Values at thresholds -> also at points between them."""
    if len(values) == 1:
        return values
    return (values[:-1, None] * (1 - _STEPS) + values[1:, None] * _STEPS).ravel()


def _harmonic_mean(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
