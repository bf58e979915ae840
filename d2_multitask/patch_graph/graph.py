"""Patches, or regions of patches, as a weighted undirected graph.

Letters: n nodes, e edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from scipy import sparse

from d2_multitask.patch_graph.relation import Relation
from d2_multitask.patch_graph.similarity import patch_places

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True)
class PatchGraph:
    """An undirected graph with non-negative weights.

    Attributes:
        weights: (n, n) float64, symmetric, non-negative, diagonal 0; a numpy array, or a scipy
            sparse array (``csr_array``) for large graphs.
        positions_yx: (n, 2) float64, centres of the nodes in patches: (0, 0) is the centre of the
            first patch.
        grid_hw: (h, w), the patches of the image.
        members: for each node the patches (indices in reading order) that it stands for; ``None``
            = node i is patch i.

    Raises:
        ValueError: a shape does not fit, or weights are negative, not finite, not symmetric, or
            not 0 on the diagonal.
    """

    weights: np.ndarray | sparse.csr_array
    positions_yx: np.ndarray
    grid_hw: tuple[int, int]
    members: tuple[np.ndarray, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.positions_yx)
        expected = n if self.members is not None else self.grid_hw[0] * self.grid_hw[1]
        if self.weights.shape != (n, n) or n != expected or len(self.members or range(n)) != n:
            raise ValueError(
                f"Graph: found weights {tuple(self.weights.shape)}, {n} positions and a grid "
                f"{tuple(self.grid_hw)}, expected as many rows, columns and positions as patches, "
                "or as members"
            )
        values = self.weights.data if sparse.issparse(self.weights) else self.weights
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError("Graph: found negative or infinite weights, expected numbers from 0")
        if abs(self.weights - self.weights.T).max() > 0 or self.weights.diagonal().any():
            raise ValueError("Graph: expected symmetric weights with 0 on the diagonal")

    @property
    def num_nodes(self) -> int:
        """n."""
        return self.weights.shape[0]

    def dense(self) -> np.ndarray:
        """(n, n) float64 weights as a numpy array."""
        return self.weights.toarray() if sparse.issparse(self.weights) else self.weights

    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges with first < second and weight > 0: first (e,), second (e,), weight (e,)."""
        upper = sparse.triu(sparse.coo_array(self.weights), k=1)
        order = np.lexsort((upper.col, upper.row))
        return (
            upper.row[order].astype(np.int64),
            upper.col[order].astype(np.int64),
            upper.data[order],
        )

    def patch_labels(self, labels: np.ndarray) -> np.ndarray:
        """Labels of nodes (n,) -> labels of patches (h, w) int64; -1 = a patch of no node."""
        labels = np.asarray(labels, np.int64)
        if self.members is None:
            return labels.reshape(self.grid_hw)
        result = np.full(self.grid_hw[0] * self.grid_hw[1], -1)
        for label, members in zip(labels, self.members, strict=True):
            result[members] = label
        return result.reshape(self.grid_hw)


def graph_from_relation(
    relation: Relation, *, locality: float | None = None, neighbours: int | None = None
) -> PatchGraph:
    """Patches as nodes, the positive part of the symmetric relation as weights.

    Args:
        relation: of the patches.
        locality: standard deviation, in patches, of a Gaussian of the distance that weights are
            multiplied with; ``None`` = distance does not count.
        neighbours: keep an edge if it is among so many strongest ones of either end.

    Raises:
        ValueError: a number is not positive.
    """
    matrix = relation.symmetric().double().numpy()
    return graph_from_matrix(matrix, relation.grid_hw, locality=locality, neighbours=neighbours)


def graph_from_matrix(
    matrix: np.ndarray | sparse.csr_array,
    grid_hw: tuple[int, int],
    *,
    locality: float | None = None,
    neighbours: int | None = None,
) -> PatchGraph:
    """As `graph_from_relation`, of a symmetric matrix (L, L); sparse weights if that is sparse."""
    for name, value in (("locality", locality), ("neighbours", neighbours)):
        if value is not None and not value > 0:
            raise ValueError(f"Graph: found {name} {value}, expected more than 0")
    places = patch_places(grid_hw).double().numpy()
    edges = sparse.coo_array(matrix)
    values = edges.data.clip(min=0)
    if locality is not None:
        square = ((places[edges.row] - places[edges.col]) ** 2).sum(1)
        values = values * np.exp(-square / (2 * locality**2))
    values[edges.row == edges.col] = 0
    weights = sparse.csr_array((values, (edges.row, edges.col)), shape=edges.shape)
    weights.eliminate_zeros()
    if neighbours is not None:
        weights = _keep_strongest(weights, neighbours)
    if not sparse.issparse(matrix):
        weights = weights.toarray()
    return PatchGraph(weights, places, grid_hw)


def _keep_strongest(weights: sparse.csr_array, neighbours: int) -> sparse.csr_array:
    """Keep edges that are among the strongest of either end; equals are all kept."""
    rows = np.split(weights.data, weights.indptr[1:-1])
    least = [np.partition(r, -neighbours)[-neighbours] if r.size > neighbours else 0 for r in rows]
    kept = weights.copy()
    kept.data = np.where(kept.data >= np.repeat(least, np.diff(weights.indptr)), kept.data, 0)
    kept.eliminate_zeros()
    return sparse.csr_array(kept.maximum(kept.T))


def border_patches(grid_hw: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: the patches at the image's border."""
    border = np.ones(grid_hw, bool)
    border[1:-1, 1:-1] = False
    return border


def to_networkx(graph: PatchGraph) -> networkx.Graph:
    """Nodes 0..n-1 with ``position_yx`` and ``members`` (tuples); edges with ``weight``.

    The grid is the graph's attribute ``grid_hw``.
    """
    import networkx

    result = networkx.Graph(grid_hw=tuple(graph.grid_hw))
    for node, position in enumerate(graph.positions_yx.tolist()):
        result.add_node(node, position_yx=tuple(position))
        if graph.members is not None:
            result.nodes[node]["members"] = tuple(graph.members[node].tolist())
    first, second, weight = (values.tolist() for values in graph.edges())
    result.add_weighted_edges_from(zip(first, second, weight, strict=True))
    return result


def save_npz(graph: PatchGraph, path: str | Path | BinaryIO) -> None:
    """Write the edges of a graph of patches, their places and the grid; `numpy.load` reads it."""
    first, second, weight = graph.edges()
    np.savez_compressed(
        path,
        first=first,
        second=second,
        weight=weight,
        positions_yx=graph.positions_yx,
        grid_hw=np.array(graph.grid_hw),
    )
