from __future__ import annotations

import math

import numpy as np
import pytest

from d2_multitask.evaluation.boundary.precision_recall import (
    PixelCounts,
    average_precision,
    best_f_measure,
    even_thresholds,
    summarize,
)


def counts(correct, labelled, predicted):
    return PixelCounts(*(np.array(values) for values in (correct, labelled, predicted)))


def test_thresholds():
    np.testing.assert_allclose(even_thresholds(3), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(even_thresholds(99), np.arange(0.01, 0.995, 0.01))
    with pytest.raises(ValueError, match="found 0, expected 1 or more"):
        even_thresholds(0)


def test_one_threshold_for_all_against_one_for_each():
    """By hand: image A is best at the first threshold, B at the second, 100 pixels each.

    A: (80 of 100, 100 predicted) F .8, then (40, 40) F 4/7. B: (50, 200) F 1/3, then (50, 50) F
    2/3. All: R 130/200, P 130/300; R 90/200, P 90/90. Each its own: R 130/200, P 130/150.
    """
    both = counts([[80, 40], [50, 50]], [[100, 100], [100, 100]], [[100, 40], [200, 50]])
    result = summarize(both)
    assert result["OIS-F"] == pytest.approx(100 * 2 * 130 / (200 + 150))
    ends = max(2 * 130 / 500, 2 * 90 / 290)
    assert result["ODS-F"] >= 100 * ends
    # Between the two points, on the straight line of precision and recall.
    share = np.linspace(0, 1, 100)
    p, r = (130 / 300) * (1 - share) + share, 0.65 * (1 - share) + 0.45 * share
    assert result["ODS-F"] == pytest.approx(100 * (2 * p * r / (p + r)).max())


def test_the_best_threshold_of_an_image_without_labels_predicts_the_least():
    """Image A is perfect at both; in B nothing is labelled: 50 pixels wrong, then 10."""
    both = counts([[30, 30], [0, 0]], [[30, 30], [0, 0]], [[30, 30], [50, 10]])
    assert summarize(both)["OIS-F"] == pytest.approx(100 * 2 * 30 / (30 + 40))


def test_area_by_hand():
    """Recall .5 at precision 1, recall 1 at precision .5: 50 points of 1, then down to .5."""
    total = counts([100, 50], [100, 100], [200, 50])
    by_hand = (50 * 1 + sum(1 - 0.5 * k / 50 for k in range(51))) / 101
    assert average_precision(total) == pytest.approx(by_hand)


def test_nothing_beyond_the_highest_recall():
    """One point at recall .5: its precision down to 0 (51 points), nothing above."""
    assert average_precision(counts([30], [60], [40])) == pytest.approx(0.75 * 51 / 101)


def test_of_points_with_one_recall_the_best_counts():
    assert average_precision(counts([10, 10], [10, 10], [20, 10])) == pytest.approx(1)


def test_perfect_and_nothing():
    perfect = counts([[7, 7]], [[7, 7]], [[7, 7]])
    assert summarize(perfect) == {"ODS-F": 100, "OIS-F": 100, "AP": pytest.approx(100)}
    nothing = counts([[0, 0]], [[7, 7]], [[0, 0]])
    assert summarize(nothing) == {"ODS-F": 0, "OIS-F": 0, "AP": 0}
    unlabelled = summarize(counts([[0, 0]], [[0, 0]], [[5, 0]]))
    assert all(math.isnan(value) for value in unlabelled.values())
    no_image = PixelCounts(*np.zeros((3, 0, 2), dtype=int))
    assert all(math.isnan(value) for value in summarize(no_image).values())


def test_single_threshold():
    assert best_f_measure(counts([30], [60], [40])) == pytest.approx(2 * 30 / 100)
