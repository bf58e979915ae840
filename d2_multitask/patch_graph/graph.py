"""Patches, or regions of patches, as a weighted undirected graph.

Letters: n nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from d2_multitask.patch_graph.relation import Relation

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
    """

    weights: np.ndarray | sparse.csr_array
    positions_yx: np.ndarray
    grid_hw: tuple[int, int]
    members: tuple[np.ndarray, ...] | None = None

    @property
    def num_nodes(self) -> int:
        """n."""
        return self.weights.shape[0]

    def dense(self) -> np.ndarray:
        """(n, n) float64 weights as a numpy array."""
        raise NotImplementedError

    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges with first < second and weight > 0: first (e,), second (e,), weight (e,)."""
        raise NotImplementedError

    def patch_labels(self, labels: np.ndarray) -> np.ndarray:
        """Labels of nodes (n,) -> labels of patches (h, w) int64."""
        raise NotImplementedError


def graph_from_relation(
    relation: Relation,
    *,
    locality: float | None = None,
    neighbours: int | None = None,
    power: float = 1.0,
) -> PatchGraph:
    """Patches as nodes, the positive part of the symmetric relation as weights.

    Args:
        relation: of L patches.
        locality: standard deviation, in patches, of a Gaussian of the distance that weights are
            multiplied with; ``None`` = distance does not count.
        neighbours: keep an edge if it is among so many strongest ones of either end.
        power: weights are raised to it; above 1 strong edges count more.

    Returns:
        The graph of L nodes.

    Raises:
        ValueError: a number is not positive.
    """
    raise NotImplementedError


def to_networkx(graph: PatchGraph) -> networkx.Graph:
    """Nodes 0..n-1 with ``position`` (y, x) and ``members``; edges with ``weight``."""
    raise NotImplementedError


def from_networkx(graph: networkx.Graph) -> PatchGraph:
    """The inverse of `to_networkx`; ``graph.graph["grid_hw"]`` is the grid."""
    raise NotImplementedError


def save_npz(graph: PatchGraph, path: str | Path) -> None:
    """Write a graph as npz, readable without pickle."""
    raise NotImplementedError


def load_npz(path: str | Path) -> PatchGraph:
    """Read what `save_npz` wrote.

    Raises:
        ValueError: the file is no such npz; names the file.
    """
    raise NotImplementedError
