"""Measures of two divisions: by hand, and by counting pairs and conditional entropies."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2_multitask.evaluation.regions import (
    best_overlaps,
    boundary_of,
    rand_index,
    shared_pixels,
    variation_of_information,
)

SEGMENTS = np.array([[0, 0, 1], [0, 1, 1]])
REGIONS = np.array([[1, 1, 1], [2, 2, 3]])

TWO = st.integers(4, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2)
)


def conditional_entropy(first: list[int], second: list[int]) -> float:
    """H(first | second) in bits."""
    joint, given = Counter(zip(first, second, strict=True)), Counter(second)
    n = len(first)
    return sum(-k / n * math.log2(k / given[b]) for (_, b), k in joint.items())


def test_by_hand():
    shared = shared_pixels(SEGMENTS, REGIONS)
    np.testing.assert_array_equal(shared, [[0, 2, 1, 0], [0, 1, 1, 1]])
    # Region 1 with segment 0: 2 of 4 pixels; region 2: 1 of 4; region 3: 1 of 3. Region 0: none.
    np.testing.assert_allclose(best_overlaps(shared), [0, 2 / 4, 1 / 4, 1 / 3])
    # Together in both: 1 pair; in segments 6, in regions 3 + 1; apart in both: 15 - 6 - 4 + 1.
    assert rand_index(shared) == pytest.approx((1 + 6) / 15)
    # Segments hold (2, 1) and (1, 1, 1) pixels of the regions, regions (2, 1), (1, 1), (1).
    of_regions = 0.5 * (math.log2(3) - 2 / 3) + 0.5 * math.log2(3)
    of_segments = 0.5 * (math.log2(3) - 2 / 3) + 1 / 3
    assert variation_of_information(shared) == pytest.approx(of_regions + of_segments)


@given(TWO)
def test_pairs_and_entropies(two):
    first, second = two
    shared = shared_pixels(np.array(first), np.array(second))
    pairs = list(itertools.combinations(range(len(first)), 2))
    agree = sum((first[i] == first[j]) == (second[i] == second[j]) for i, j in pairs)
    assert rand_index(shared) == pytest.approx(agree / len(pairs))
    entropies = conditional_entropy(first, second) + conditional_entropy(second, first)
    assert variation_of_information(shared) == pytest.approx(entropies, abs=1e-12)
    for region, overlap in enumerate(best_overlaps(shared)):
        mask = {i for i, number in enumerate(second) if number == region}
        ious = [
            len(mask & other) / max(len(mask | other), 1)
            for segment in set(first)
            for other in [{i for i, number in enumerate(first) if number == segment}]
        ]
        assert overlap == pytest.approx(max(ious))


def test_names_do_not_matter():
    renamed = np.array([9, 10**12])[SEGMENTS]
    shared, expected = shared_pixels(renamed, REGIONS), shared_pixels(SEGMENTS, REGIONS)
    for measure in (rand_index, variation_of_information):
        assert measure(shared) == pytest.approx(measure(expected))
    np.testing.assert_allclose(best_overlaps(shared), best_overlaps(expected))
    same = shared_pixels(SEGMENTS, SEGMENTS.astype(np.uint8))
    assert rand_index(same) == 1 and variation_of_information(same) == pytest.approx(0)
    np.testing.assert_array_equal(best_overlaps(same), [1, 1])


def test_wrong_maps():
    with pytest.raises(ValueError, match=r"found shape \(2, 2\), expected \(2, 3\)"):
        shared_pixels(SEGMENTS[:, :2], REGIONS)
    with pytest.raises(ValueError, match="segments: found the number -1, expected 0 or more"):
        shared_pixels(SEGMENTS - 1, REGIONS)


def test_lines():
    """Between rows 0 and 1, and columns 1 and 2, in the pixels above and to the left."""
    lines = boundary_of(np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]]))
    np.testing.assert_array_equal(lines, [[0, 1, 0], [1, 1, 1], [0, 0, 0]])
    # A corner alone: its 2x2 pixels are not all of one segment.
    corner = boundary_of(np.array([[1, 1, 1], [1, 1, 1], [1, 1, 2]]))
    np.testing.assert_array_equal(corner, [[0, 0, 0], [0, 1, 1], [0, 1, 0]])
