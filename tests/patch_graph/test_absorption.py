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


def walked(graph: PatchGraph) -> np.ndarray:
    """Walks whose places are followed step by step, with copies of the border that end them."""
    h, w = graph.grid_hw
    border = [i for i in range(h * w) if i // w in (0, h - 1) or i % w in (0, w - 1)]
    weights = graph.dense()
    steps = np.zeros((h * w + len(border),) * 2)
    steps[: h * w, : h * w] = weights
    for number, patch in enumerate(border):
        steps[: h * w, h * w + number] = weights[:, patch]
        steps[patch, h * w + number] = weights[patch].max()
    steps[: h * w] /= steps[: h * w].sum(1, keepdims=True)
    times, alive = np.zeros(h * w), np.eye(h * w, h * w + len(border))
    for _ in range(2000):
        alive[:, h * w :] = 0
        times += alive.sum(1)
        alive = alive @ steps / (1 + LEAK)
    return times.reshape(h, w)


@pytest.mark.parametrize("grid_hw", [(3, 4), (5, 5), (2, 3)])
def test_times_are_those_of_the_walk(grid_hw) -> None:
    graph = random_graph(grid_hw, seed=1)
    np.testing.assert_allclose(absorption_times(graph), walked(graph), rtol=1e-9)


def test_two_patches_by_hand() -> None:
    # the middle of 3x3 and one of the border: each goes to the other or leaves, t = 1 + t / 2
    matrix = np.zeros((9, 9))
    matrix[4, 1] = matrix[1, 4] = 0.7
    times = absorption_times(graph_from_matrix(matrix, (3, 3)))
    np.testing.assert_allclose(times, [[1, 2, 1], [1, 2, 1], [1, 1, 1]], rtol=2 * LEAK)


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


def test_no_edges_and_a_part_without_the_border() -> None:
    matrix = np.zeros((36, 36))
    np.testing.assert_array_equal(absorption_times(graph_from_matrix(matrix, (6, 6))), 1)
    objects = np.zeros((6, 6), bool)
    objects[2:4, 1:4] = True
    flat = objects.flatten()
    matrix = (flat[:, None] == flat) + 0.01
    island = [27, 28]  # has no edges but one of its own, and does not hide the object
    matrix[island] = matrix[:, island] = 0
    matrix[27, 28] = matrix[28, 27] = 1e-3
    times = absorption_times(graph_from_matrix(matrix, (6, 6)))
    objects.flat[island] = True
    np.testing.assert_array_equal(times > otsu_threshold(times), objects)
    assert times.max() == times.flat[28]


@pytest.mark.parametrize("grid_hw", [(4, 5), (2, 3), (9, 9)])
def test_all_edges_alike_tell_nothing(grid_hw) -> None:
    count = grid_hw[0] * grid_hw[1]
    times = absorption_times(graph_from_matrix(np.ones((count, count)), grid_hw))
    np.testing.assert_allclose(times, times[0, 0])
    assert not (times > otsu_threshold(times)).any()


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
