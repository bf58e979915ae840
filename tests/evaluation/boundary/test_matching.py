from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from d2_multitask.evaluation.boundary.matching import BoundaryMatcher, disc_offsets


def match(predicted: np.ndarray, label: np.ndarray, distance: float):
    return BoundaryMatcher(label, distance).match(np.flatnonzero(predicted))


def brute_force(predicted: np.ndarray, label: np.ndarray, distance: float) -> int:
    """Most pairs within the distance, by a dense assignment."""
    a, b = np.argwhere(predicted), np.argwhere(label)
    apart = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1))
    near = (apart <= distance).astype(float)
    rows, columns = linear_sum_assignment(near, maximize=True)
    return int(near[rows, columns].sum())


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 5),
    st.floats(0.01, 0.4),
    st.floats(0.01, 0.4),
    st.integers(1, 16),
    st.integers(1, 16),
)
def test_as_many_pairs_as_brute_force(seed, distance, share_a, share_b, height, width):
    random = np.random.default_rng(seed)
    predicted = random.random((height, width)) < share_a
    label = random.random((height, width)) < share_b
    pairs = match(predicted, label, distance)
    assert len(pairs.predicted) == brute_force(predicted, label, distance)
    # One to one, of set pixels, within the distance.
    assert len(set(pairs.predicted)) == len(set(pairs.labelled)) == len(pairs.predicted)
    assert predicted.ravel()[pairs.predicted].all() and label.ravel()[pairs.labelled].all()
    (y0, x0), (y1, x1) = np.divmod(pairs.predicted, width), np.divmod(pairs.labelled, width)
    assert (np.hypot(y0 - y1, x0 - x1) <= distance).all()


def test_a_pair_is_given_up_for_two():
    """Predicted at columns 0 and 2, labelled at 1 and 3... the near pair would leave one alone."""
    predicted, label = np.zeros((1, 8), bool), np.zeros((1, 8), bool)
    predicted[0, [2, 4]] = True
    label[0, [4, 6]] = True
    pairs = match(predicted, label, 2)  # 4-4 is nearest, but then 2 and 6 stay alone
    assert dict(zip(pairs.predicted.tolist(), pairs.labelled.tolist(), strict=True)) == {2: 4, 4: 6}


def test_the_same_lines_are_matched_with_themselves():
    """Also lines nearer to each other than the distance."""
    lines = np.zeros((20, 30), bool)
    lines[[4, 7, 9]] = True
    pairs = match(lines, lines, 4.7)
    np.testing.assert_array_equal(pairs.predicted, pairs.labelled)
    assert len(pairs.predicted) == 90


def test_nothing_to_match():
    nothing, something = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    assert len(match(nothing, something, 2).predicted) == 0
    assert len(match(something, nothing, 2).predicted) == 0


def test_disc():
    np.testing.assert_array_equal(disc_offsets(0.9), [[0, 0]])
    assert len(disc_offsets(1)) == 5 and len(disc_offsets(1.5)) == 9
    # 0.0075 of the diagonal of 500x375 is 4.6875: the lattice points in a circle of that radius.
    points = sum(y * y + x * x <= 4.6875**2 for y in range(-5, 6) for x in range(-5, 6))
    assert len(disc_offsets(4.6875)) == points == 69
    lengths = (disc_offsets(4.6875) ** 2).sum(axis=1)
    assert (np.diff(lengths) >= 0).all()


def test_negative_distance():
    with pytest.raises(ValueError, match="max_distance: found -1"):
        BoundaryMatcher(np.zeros((2, 2), bool), -1)
