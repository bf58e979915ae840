from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from d2_multitask.patch_graph.graph import PatchGraph
from patch_graph_support import planted_graph
from studies.relations.normalised_cut import normalised_cut, recursive_cut, second_eigenvector


def test_two_planted_groups_are_cut() -> None:
    graph, labels = planted_graph(2, 8)
    cut = normalised_cut(graph)
    assert len(set(cut[labels == 0])) == len(set(cut[labels == 1])) == 1
    assert cut[0] != cut[-1]


def test_the_smaller_group_is_the_foreground() -> None:
    graph, _ = planted_graph(2, 10, inside=0.8, outside=0.02)
    keep = np.arange(6, 20)  # 4 and 10 nodes
    weights = graph.weights[np.ix_(keep, keep)]
    small = PatchGraph(weights, graph.positions_yx[keep], (1, 14))
    assert normalised_cut(small).tolist() == [1] * 4 + [0] * 10


def test_the_eigenvector_is_that_of_the_random_walk() -> None:
    graph, _ = planted_graph(3, 5)
    vector = second_eigenvector(graph)
    walk = graph.weights / graph.weights.sum(1, keepdims=True)
    values = np.sort(linalg.eigvals(walk).real)
    np.testing.assert_allclose(walk @ vector, values[-2] * vector, atol=1e-9)
    assert vector[np.abs(vector).argmax()] > 0


def test_parts_without_an_edge_between_them_are_cut_apart() -> None:
    weights = np.zeros((5, 5))
    weights[:2, :2] = weights[2:, 2:] = 1
    np.fill_diagonal(weights, 0)
    cut = normalised_cut(PatchGraph(weights, np.zeros((5, 2)), (1, 5)))
    assert cut.tolist() == [1, 1, 0, 0, 0]


def test_binary_weights_forget_how_strong_edges_are() -> None:
    graph, labels = planted_graph(2, 8, inside=0.8, outside=0.1)
    outlier = graph.weights.copy()
    outlier[0, 1] = outlier[1, 0] = 1e6  # one pair would be the whole cut
    graph = PatchGraph(outlier, graph.positions_yx, graph.grid_hw)
    cut = normalised_cut(graph, binarise=0.45)
    assert len(set(cut[labels == 0])) == len(set(cut[labels == 1])) == 1 and cut[0] != cut[-1]


def test_planted_groups_are_cut_one_after_the_other() -> None:
    graph, labels = planted_graph(4, 6)
    levels = recursive_cut(graph, 6)
    assert [len(set(level)) for level in levels] == [1, 2, 3, 4, 5, 6]
    groups = {frozenset(np.flatnonzero(levels[3] == part)) for part in range(4)}
    assert groups == {frozenset(np.flatnonzero(labels == group)) for group in range(4)}
    for coarse, fine in zip(levels, levels[1:], strict=False):  # each is one of the last, cut
        assert len(set(zip(coarse, fine, strict=True))) == len(set(fine))


def test_cutting_ends_where_no_edge_is_left() -> None:
    weights = np.zeros((5, 5))
    weights[0, 1] = weights[1, 0] = 1
    graph = PatchGraph(weights, np.zeros((5, 2)), (1, 5))
    sizes = [len(set(level)) for level in recursive_cut(graph, 9)]
    assert sizes == list(range(1, len(sizes) + 1)) and len(sizes) <= 5
    assert len(recursive_cut(PatchGraph(np.zeros((4, 4)), np.zeros((4, 2)), (2, 2)), 3)) == 1


def test_no_edge_no_cut() -> None:
    graph = PatchGraph(np.zeros((4, 4)), np.zeros((4, 2)), (2, 2))
    assert normalised_cut(graph).tolist() == [0, 0, 0, 0]
    assert normalised_cut(graph, binarise=0.5).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_out_of_range_is_refused(share) -> None:
    with pytest.raises(ValueError, match=f"binarise={share}"):
        normalised_cut(planted_graph()[0], binarise=share)
