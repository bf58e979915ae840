from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from d2_multitask.patch_graph.absorption import LEAK, absorption_times, otsu_threshold
from d2_multitask.patch_graph.graph import PatchGraph, graph_from_matrix


def random_graph(grid_hw: tuple[int, int], seed: int) -> PatchGraph:
    count = grid_hw[0] * grid_hw[1]
    weights = np.random.default_rng(seed).random((count, count))
    return graph_from_matrix((weights + weights.T) * (weights + weights.T > 0.8), grid_hw)


def step_by_step(graph: PatchGraph) -> np.ndarray:
    """The sum of the probabilities that the walk goes on for 0, 1, 2, ... steps more."""
    h, w = graph.grid_hw
    inside = np.zeros((h, w), bool)
    inside[1:-1, 1:-1] = True
    weights = graph.dense()
    to_copies = weights[:, ~inside.flatten()].sum(1)
    go_on = weights / (weights.sum(1) + to_copies)[:, None] / (1 + LEAK)
    alive, times = np.ones(h * w), np.zeros(h * w)
    for _ in range(20_000):
        times += alive / (1 + LEAK)
        alive = go_on @ alive
    return times.reshape(h, w)


@pytest.mark.parametrize("grid_hw", [(3, 4), (5, 5), (2, 3)])
def test_times_are_those_of_the_walk(grid_hw) -> None:
    graph = random_graph(grid_hw, seed=1)
    np.testing.assert_allclose(absorption_times(graph), step_by_step(graph), rtol=1e-9)


def test_what_is_related_to_itself_alone_holds_the_walk_wherever_it_is() -> None:
    # a background and an object that touches the border; four edges between them
    objects = np.zeros((6, 8), bool)
    objects[2:5, 1:4] = True
    flat = objects.flatten()
    matrix = (flat[:, None] == flat).astype(float)
    matrix[0, 8 * 3 + 2] = matrix[8 * 3 + 2, 0] = 0.5
    times = absorption_times(graph_from_matrix(matrix, (6, 8)))
    assert times[objects].min() > 5 * times[~objects].max()
    np.testing.assert_array_equal(times > otsu_threshold(times), objects)


def test_no_edges_and_parts_without_the_border() -> None:
    matrix = np.zeros((9, 9))
    np.testing.assert_allclose(absorption_times(graph_from_matrix(matrix, (3, 3))), 1 / (1 + LEAK))
    matrix = np.zeros((16, 16))
    matrix[5, 6] = matrix[6, 5] = 1.0  # two patches in the middle
    times = absorption_times(graph_from_matrix(matrix, (4, 4)))
    np.testing.assert_allclose(times[1, 1:3], 1 / LEAK)


def test_every_patch_of_a_complete_graph_is_alike() -> None:
    times = absorption_times(graph_from_matrix(np.ones((20, 20)), (4, 5)))
    inside = times[1:-1, 1:-1]
    np.testing.assert_allclose(inside, inside[0, 0])


@given(arrays(np.float64, st.integers(1, 12), elements=st.integers(0, 6).map(float)))
def test_otsu_is_the_best_of_all_thresholds(values) -> None:
    def inside(threshold: float) -> float:
        above = values > threshold
        return sum(
            np.var(part) * len(part) for part in (values[above], values[~above]) if len(part)
        )

    found = otsu_threshold(values)
    if np.ptp(values) == 0:
        assert not (values > found).any()
    else:
        assert 0 < (values > found).sum() < len(values)
        assert inside(found) <= min(map(inside, values)) + 1e-9
