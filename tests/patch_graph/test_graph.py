from __future__ import annotations

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from d2_multitask.patch_graph.graph import (
    PatchGraph,
    graph_from_relation,
    save_npz,
    to_networkx,
)
from d2_multitask.patch_graph.relation import Relation
from d2_multitask.patch_graph.similarity import patch_places


def random_relation(grid_hw=(3, 4), seed: int = 0) -> Relation:
    length = grid_hw[0] * grid_hw[1]
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(length, length, generator=generator).fill_diagonal_(0)
    return Relation(matrix, grid_hw)


@st.composite
def graphs(draw) -> PatchGraph:
    """Patches or regions, dense or sparse, with any number of edges."""
    h, w = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    has_members = draw(st.booleans())
    n = draw(st.integers(1, h * w)) if has_members else h * w
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    upper = np.triu(generator.exponential(size=(n, n)), 1)
    upper *= generator.random((n, n)) < draw(st.floats(0, 1))
    weights = upper + upper.T
    if draw(st.booleans()):
        weights = sparse.csr_array(weights)
    members = None
    positions = patch_places((h, w)).double().numpy()
    if has_members:
        patches = generator.permutation(h * w)
        members = tuple(np.sort(part) for part in np.array_split(patches, n))
        positions = generator.random((n, 2))
    return PatchGraph(weights, positions, (h, w), members)


@given(graphs())
@settings(max_examples=40, deadline=None)
def test_networkx_has_nodes_and_edges(graph) -> None:
    found = to_networkx(graph)
    assert found.graph["grid_hw"] == graph.grid_hw
    places = [found.nodes[node]["position_yx"] for node in range(graph.num_nodes)]
    np.testing.assert_array_equal(np.array(places).reshape(-1, 2), graph.positions_yx)
    np.testing.assert_array_equal(networkx.to_numpy_array(found), graph.dense())
    for node, patches in enumerate(graph.members or ()):
        assert found.nodes[node]["members"] == tuple(patches)


@given(graphs())
@settings(max_examples=40, deadline=None)
def test_npz_has_edges_and_places(tmp_path_factory, graph) -> None:
    path = tmp_path_factory.mktemp("graph") / "graph.npz"
    save_npz(graph, path)
    with np.load(path) as content:
        edges = (content["weight"], (content["first"], content["second"]))
        upper = sparse.coo_array(edges, shape=graph.weights.shape).toarray()
        np.testing.assert_array_equal(upper + upper.T, graph.dense())
        np.testing.assert_array_equal(content["positions_yx"], graph.positions_yx)
        assert tuple(content["grid_hw"]) == graph.grid_hw


@given(
    st.integers(0, 50),
    st.sampled_from([None, 0.7, 3.0]),
    st.sampled_from([None, 1, 3, 100]),
)
@settings(max_examples=40, deadline=None)
def test_every_graph_is_symmetric_and_follows_a_permutation(seed, locality, neighbours) -> None:
    options = {"locality": locality, "neighbours": neighbours}
    relation = random_relation(seed=seed)
    weights = graph_from_relation(relation, **options).weights
    assert (weights == weights.T).all() and (weights >= 0).all() and not weights.diagonal().any()
    # Turning the image by 180 degrees reverses the patches and keeps their distances.
    turned = Relation(relation.matrix.flip(0, 1), relation.grid_hw)
    turned_weights = graph_from_relation(turned, **options).weights
    np.testing.assert_allclose(turned_weights, weights[::-1, ::-1], atol=1e-12)


def test_weights_by_hand() -> None:
    matrix = torch.zeros(4, 4)
    matrix[0, 1], matrix[1, 0] = 0.4, 0.2  # mean 0.3
    matrix[0, 3], matrix[3, 0] = 0.4, -0.6  # mean -0.1: no edge
    matrix[1, 2], matrix[0, 2] = 0.2, 0.8
    relation = Relation(matrix, (2, 2))
    weights = graph_from_relation(relation).weights
    np.testing.assert_allclose(weights[0], [0, 0.3, 0.4, 0], rtol=1e-6)
    np.testing.assert_allclose(weights[1], [0.3, 0, 0.1, 0], rtol=1e-6)
    local = graph_from_relation(relation, locality=1).weights
    # 1 and 2 are diagonal neighbours: distance sqrt(2)
    np.testing.assert_allclose(local[1, 2], 0.1 * np.exp(-1), rtol=1e-6)
    # the strongest edge of 1 is to 0, of 2 to 0: 1-2 goes
    strongest = graph_from_relation(relation, neighbours=1).weights
    np.testing.assert_allclose(strongest[1], [0.3, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(strongest[0], [0, 0.3, 0.4, 0], rtol=1e-6)


@pytest.mark.parametrize("option", [{"locality": 0.0}, {"neighbours": 0}])
def test_settings_must_be_positive(option) -> None:
    with pytest.raises(ValueError, match=f"Graph: found {next(iter(option))}"):
        graph_from_relation(random_relation(), **option)


def test_edges_and_labels() -> None:
    weights = np.zeros((3, 3))
    weights[0, 2] = weights[2, 0] = 0.5
    weights[1, 2] = weights[2, 1] = 0.25
    members = (np.array([0, 3]), np.array([1]), np.array([4]))
    graph = PatchGraph(weights, np.zeros((3, 2)), (2, 3), members)
    first, second, weight = graph.edges()
    assert first.tolist() == [0, 1] and second.tolist() == [2, 2]
    assert weight.tolist() == [0.5, 0.25]
    labels = graph.patch_labels(np.array([7, 8, 9]))
    assert labels.tolist() == [[7, 8, -1], [7, 9, -1]]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.array([[0, 1], [2, 0]]), "symmetric"),
        (np.array([[1, 0], [0, 0]]), "0 on the diagonal"),
        (np.array([[0, -1], [-1, 0]]), "negative or infinite"),
        (np.array([[0, np.nan], [np.nan, 0]]), "negative or infinite"),
        (np.zeros((3, 3)), r"found weights \(3, 3\), 2 positions"),
    ],
)
def test_what_is_no_graph_is_refused(weights, message) -> None:
    with pytest.raises(ValueError, match=message):
        PatchGraph(weights.astype(float), np.zeros((2, 2)), (1, 2))
