"""Groups of nodes that hold together: Louvain's method (Blondel et al. 2008, arXiv 0803.0476).

Letters: n nodes. Labels are int64 (n,), 0, 1, ... in the order of their first node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from d2_multitask.patch_graph.graph import PatchGraph, to_networkx


def canonical_labels(labels: np.ndarray) -> np.ndarray:
    """The same groups, numbered 0, 1, ... in the order of their first element; any shape, int64."""
    labels = np.asarray(labels)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    ranks = np.empty(len(first), np.int64)
    ranks[first.argsort()] = np.arange(len(first))
    return ranks[inverse].reshape(labels.shape)


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
        One (n,) array of labels per level, finest first.

    Raises:
        ValueError: unknown backend, or the resolution is not positive.
        ImportError: the backend is not installed.
    """
    if not resolution > 0:
        raise ValueError(f"Louvain: found the resolution {resolution}, expected more than 0")
    if backend not in BACKENDS:
        raise ValueError(f"Louvain: found the backend {backend!r}, expected one of {[*BACKENDS]}")
    if not graph.edges()[2].size:
        return [np.zeros(graph.num_nodes, np.int64)]
    levels = BACKENDS[backend](graph, resolution, seed)
    return [canonical_labels(labels) for labels in levels]


def _networkx_louvain(graph: PatchGraph, resolution: float, seed: int) -> list[np.ndarray]:
    import networkx

    levels = networkx.community.louvain_partitions(
        to_networkx(graph), weight="weight", resolution=resolution, seed=seed
    )
    result = []
    for groups in levels:
        labels = np.empty(graph.num_nodes, np.int64)
        for label, nodes in enumerate(groups):
            labels[list(nodes)] = label
        result.append(labels)
    return result


def _networkit_louvain(graph: PatchGraph, resolution: float, seed: int) -> list[np.ndarray]:
    try:
        import networkit
    except ImportError as error:
        raise ImportError(
            "Louvain's backend 'networkit' is not installed. Type: "
            'python -m pip install "d2_multitask[graph]", or choose the backend "networkx"'
        ) from error
    first, second, weight = graph.edges()
    ends = tuple(np.ascontiguousarray(nodes, np.uint64) for nodes in (first, second))
    networkit.setSeed(seed, False)
    target = networkit.GraphFromCoo((weight, ends), n=graph.num_nodes, weighted=True)
    method = networkit.community.PLM
    # One level at a time: together, the levels in between could not be had.
    levels, nodes = [], np.arange(graph.num_nodes)
    while True:
        run = method(target, gamma=resolution, par="none randomized", recurse=False).run()
        groups = run.getPartition()
        if groups.numberOfSubsets() == target.numberOfNodes():
            return levels or [nodes]
        target, mapping = method.coarsen(target, groups)
        nodes = np.asarray(mapping)[nodes]
        levels.append(nodes)


BACKENDS: dict[str, Callable[[PatchGraph, float, int], list[np.ndarray]]] = {
    "networkx": _networkx_louvain,
    "networkit": _networkit_louvain,
}
"""Name -> levels of a graph that has edges, for a resolution and a seed."""


def split_disconnected(graph: PatchGraph, labels: np.ndarray) -> np.ndarray:
    """Split every community into the parts that its own edges connect.

    Louvain may return communities whose nodes are joined only through others (Traag et al. 2019,
    arXiv 1810.08473).
    """
    first, second, weight = graph.edges()
    if not weight.size:
        return canonical_labels(labels)
    inside = labels[first] == labels[second]
    edges = (weight[inside], (first[inside], second[inside]))
    within = sparse.coo_array(edges, shape=(graph.num_nodes,) * 2)
    return canonical_labels(csgraph.connected_components(within, directed=False)[1])


def join_isolated(graph: PatchGraph, labels: np.ndarray) -> np.ndarray:
    """Patches without any edge that touch each other become one community.

    Such are the patches of a tile of one colour, where there is nothing to measure.
    """
    first, second, _ = graph.edges()
    isolated = np.ones(graph.grid_hw, bool)
    isolated.flat[np.concatenate([first, second])] = False
    parts, count = ndimage.label(isolated)
    if count == 0:
        return labels
    return canonical_labels(np.where(isolated, -parts, labels.reshape(graph.grid_hw))).flatten()


def consensus(
    graph: PatchGraph,
    seeds: Sequence[int] = tuple(range(4)),
    resolutions: Sequence[float] = (0.8, 1.0, 1.2),
    backend: str = "networkx",
) -> np.ndarray:
    """What many runs agree on (Lancichinetti and Fortunato 2012, arXiv 1203.6093).

    Nodes are linked by the share of runs that put them together, and Louvain is run on that graph;
    links of less than half of the runs are left out.

    Args:
        graph: n nodes.
        seeds: of the runs.
        resolutions: each with every seed.
        backend: see `louvain`.

    Returns:
        (n,) labels.

    Raises:
        ValueError: no run is asked for.
    """
    runs = [louvain(graph, value, seed, backend)[-1] for value in resolutions for seed in seeds]
    if not runs:
        raise ValueError("Consensus: expected at least one seed and one resolution")
    shares = np.mean([labels[:, None] == labels for labels in runs], axis=0)
    shares[shares < 0.5] = 0
    np.fill_diagonal(shares, 0)
    agreed = PatchGraph(shares, graph.positions_yx, graph.grid_hw, graph.members)
    if not shares.any():  # no two nodes belong together
        return np.arange(graph.num_nodes)
    return louvain(agreed, seed=min(seeds), backend=backend)[-1]
