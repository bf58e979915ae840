"""Groups of nodes that hold together: Louvain's method (Blondel et al. 2008, arXiv 0803.0476).

Letters: n nodes. Labels are int64 (n,), 0, 1, ... in the order of their first node.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from d2_multitask.patch_graph.graph import PatchGraph


def canonical_labels(labels: np.ndarray) -> np.ndarray:
    """The same groups, numbered 0, 1, ... in the order of their first element; any shape, int64."""
    raise NotImplementedError


def louvain(
    graph: PatchGraph, resolution: float = 1.0, seed: int = 0, backend: str = "networkx"
) -> list[np.ndarray]:
    """All levels of Louvain's method, from many small communities to few large ones.

    Args:
        graph: n nodes. Without any edge there is nothing to divide by: one community.
        resolution: above 1 more and smaller communities, below 1 fewer (gamma).
        seed: of the order in which nodes are visited.
        backend: "networkx", or "networkit" (pip install "d2_multitask[graph]"), which is faster.

    Returns:
        One (n,) array of labels a level, finest first.

    Raises:
        ValueError: unknown backend, or the resolution is not positive.
        ImportError: the backend is not installed.
    """
    raise NotImplementedError


def modularity(graph: PatchGraph, labels: np.ndarray, resolution: float = 1.0) -> float:
    """Newman's modularity of a division, with resolution; 0 for a graph without edges."""
    raise NotImplementedError


def split_disconnected(graph: PatchGraph, labels: np.ndarray) -> np.ndarray:
    """Split every community into the parts that its own edges connect.

    Louvain may return communities whose nodes are joined only through others (Traag et al. 2019,
    arXiv 1810.08473).

    Args:
        graph: n nodes.
        labels: (n,).

    Returns:
        (n,).
    """
    raise NotImplementedError


def sweep_resolutions(
    graph: PatchGraph, resolutions: Sequence[float], seed: int = 0, backend: str = "networkx"
) -> dict[float, np.ndarray]:
    """Resolution -> (n,) labels of the coarsest level."""
    raise NotImplementedError


def consensus(
    graph: PatchGraph,
    seeds: Sequence[int] = tuple(range(4)),
    resolutions: Sequence[float] = (0.8, 1.0, 1.2),
    backend: str = "networkx",
) -> np.ndarray:
    """What many runs agree on (Lancichinetti and Fortunato 2012, arXiv 1203.6093).

    Nodes are linked by the share of runs that put them together, and Louvain is run on that graph.

    Args:
        graph: n nodes.
        seeds: of the runs.
        resolutions: each with every seed.
        backend: see `louvain`.

    Returns:
        (n,) labels.
    """
    raise NotImplementedError
