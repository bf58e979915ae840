from __future__ import annotations

import builtins

import networkx
import numpy as np
import pytest
from scipy import sparse

from d2_multitask.patch_graph.communities import (
    canonical_labels,
    consensus,
    join_isolated,
    louvain,
    split_disconnected,
)
from d2_multitask.patch_graph.graph import PatchGraph, to_networkx
from d2_multitask.patch_graph.similarity import patch_places
from patch_graph_support import planted_graph

BACKENDS = ["networkx", "networkit"]


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    pytest.importorskip(request.param)
    return request.param


def random_graph(seed: int, n: int = 40) -> PatchGraph:
    generator = np.random.default_rng(seed)
    upper = np.triu(generator.random((n, n)) * (generator.random((n, n)) < 0.15), 1)
    places = patch_places((1, n)).double().numpy()
    return PatchGraph(upper + upper.T, places, (1, n))


def path_graph(weights: list[float]) -> PatchGraph:
    n = len(weights) + 1
    matrix = np.diag(weights, 1)
    return PatchGraph(matrix + matrix.T, patch_places((1, n)).double().numpy(), (1, n))


def test_planted_communities_are_found(backend) -> None:
    graph, expected = planted_graph()
    for seed in range(3):
        assert louvain(graph, seed=seed, backend=backend)[-1].tolist() == expected.tolist()


def test_planted_communities_are_found_in_any_order_of_nodes(backend) -> None:
    graph, expected = planted_graph()
    order = np.random.default_rng(0).permutation(graph.num_nodes)
    mixed = PatchGraph(
        graph.weights[np.ix_(order, order)], graph.positions_yx[order], graph.grid_hw
    )
    labels = louvain(mixed, backend=backend)[-1]
    assert labels.tolist() == canonical_labels(expected[order]).tolist()


def test_dense_and_sparse_weights_are_the_same_graph(backend) -> None:
    graph = random_graph(0)
    thin = PatchGraph(sparse.csr_array(graph.weights), graph.positions_yx, graph.grid_hw)
    dense_levels, sparse_levels = (louvain(g, backend=backend) for g in (graph, thin))
    assert [a.tolist() for a in dense_levels] == [b.tolist() for b in sparse_levels]


def modularity(graph: PatchGraph, labels: np.ndarray) -> float:
    groups = [set(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)]
    return networkx.community.modularity(to_networkx(graph), groups)


def test_levels_are_nested_and_modularity_grows(backend) -> None:
    for seed in range(5):
        graph = random_graph(seed)
        levels = louvain(graph, seed=seed, backend=backend)
        for fine, coarse in zip(levels[:-1], levels[1:], strict=True):
            pairs = np.unique(np.stack([fine, coarse], axis=1), axis=0)
            assert len(pairs) == fine.max() + 1  # a fine community lies in one coarse one
            assert modularity(graph, coarse) >= modularity(graph, fine) - 1e-9


def test_it_is_as_good_as_networkx_on_average(backend) -> None:
    """Both are greedy: one may lose on a graph, but not on average over twenty."""
    gaps = []
    for seed in range(20):
        graph = random_graph(seed)
        groups = networkx.community.louvain_communities(to_networkx(graph), seed=0)
        reference = networkx.community.modularity(to_networkx(graph), groups)
        gaps.append(modularity(graph, louvain(graph, backend=backend)[-1]) - reference)
    assert np.mean(gaps) >= -1e-3


def test_a_seed_repeats(backend) -> None:
    graph = random_graph(1)
    runs = [louvain(graph, seed=4, backend=backend) for _ in range(2)]
    assert [a.tolist() for a in runs[0]] == [b.tolist() for b in runs[1]]


def test_a_graph_without_edges_is_one_community(backend) -> None:
    graph = path_graph([0.0, 0.0])
    assert [level.tolist() for level in louvain(graph, backend=backend)] == [[0, 0, 0]]
    assert split_disconnected(graph, np.zeros(3, int)).tolist() == [0, 0, 0]
    assert consensus(graph, backend=backend).tolist() == [0, 0, 0]


def test_nodes_without_edges_stay_alone(backend) -> None:
    graph = path_graph([1.0, 0.0, 0.0])
    assert louvain(graph, backend=backend)[-1].tolist() == [0, 0, 1, 2]


def test_a_higher_resolution_gives_more_communities(backend) -> None:
    graph, _ = planted_graph()
    found = {value: louvain(graph, value, backend=backend)[-1] for value in (0.1, 1.0, 4.0)}
    counts = [labels.max() + 1 for labels in found.values()]
    assert list(found) == [0.1, 1.0, 4.0] and counts[0] == 1 < counts[1] == 4 < counts[2]


def test_consensus_finds_planted_communities(backend) -> None:
    graph, expected = planted_graph(inside=0.5, outside=0.25)
    assert consensus(graph, backend=backend).tolist() == expected.tolist()


def test_nothing_agreed_on_leaves_every_node_alone() -> None:
    graph, _ = planted_graph(2, 3)
    labels = consensus(graph, seeds=[0], resolutions=[100.0])
    assert labels.tolist() == list(range(6))


def test_disconnected_communities_are_split() -> None:
    graph = path_graph([1.0, 1.0, 1.0, 1.0])
    # nodes 0, 1 and 4 are called one community, but 4 is joined to it only through others
    assert split_disconnected(graph, np.array([5, 5, 3, 3, 5])).tolist() == [0, 0, 1, 1, 2]


def test_patches_without_edges_join_those_that_touch_them() -> None:
    weights = np.zeros((9, 9))
    weights[3, 4] = weights[4, 3] = weights[4, 5] = weights[5, 4] = 1.0  # the middle row
    graph = PatchGraph(weights, patch_places((3, 3)).double().numpy(), (3, 3))
    labels = louvain(graph)[-1]
    assert labels.tolist() == [0, 1, 2, 3, 3, 3, 4, 5, 6]
    assert join_isolated(graph, labels).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    whole, expected = planted_graph()
    assert join_isolated(whole, expected).tolist() == expected.tolist()


def test_labels_are_numbered_by_their_first_element() -> None:
    assert canonical_labels(np.array([[7, 2], [2, -1]])).tolist() == [[0, 1], [1, 2]]
    assert canonical_labels(np.array([True, False])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 0.0}, "resolution 0.0"),
        ({"backend": "igraph"}, "'igraph', expected one of"),
    ],
)
def test_bad_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        louvain(random_graph(0), **arguments)


def test_no_run_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        consensus(random_graph(0), seeds=[])


def test_a_missing_backend_names_the_extra(monkeypatch) -> None:
    real = builtins.__import__

    def without_networkit(name, *args, **kwargs):
        if name == "networkit":
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_networkit)
    with pytest.raises(ImportError, match=r"d2_multitask\[graph\]"):
        louvain(random_graph(0), backend="networkit")
