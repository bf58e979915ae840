"""Two parts of a graph by its second eigenvector, and more by cutting parts again.

Shi and Malik, "Normalized cuts and image segmentation", 2000; as in TokenCut, arXiv 2202.11539.
Letters: n nodes.
"""

from __future__ import annotations

import numpy as np

from d2_multitask.patch_graph import maskcut
from d2_multitask.patch_graph.graph import PatchGraph
from d2_multitask.patch_graph.maskcut import WEAK_EDGE


def second_eigenvector(graph: PatchGraph) -> np.ndarray:
    """The relaxed normalised cut: (D - W) y = lambda D y for the second smallest lambda.

    Args:
        graph: n nodes.

    Returns:
        (n,) float64, whose entry of largest magnitude is positive; zeros if there is no edge.
    """
    weights = graph.dense()
    if not weights.any():
        return np.zeros(graph.num_nodes)
    return maskcut.second_eigenvector(_connected(weights))


def normalised_cut(graph: PatchGraph, *, binarise: float | None = None) -> np.ndarray:
    """Cut a graph in two at the mean of the second eigenvector.

    Args:
        graph: n nodes.
        binarise: the share of pairs that become an edge of weight 1, the strongest ones; TokenCut
            does the same with a threshold, which has no meaning in our relations' units. ``None`` =
            weights as they are.

    Returns:
        (n,) int64: 1 = the part with the entry of largest magnitude, which TokenCut takes for the
        foreground; 0 = the rest. All 0 if the graph has no edge.

    Raises:
        ValueError: ``binarise`` is not in (0, 1].
    """
    if binarise is not None:
        graph = _binarised(graph, binarise)
    vector = second_eigenvector(graph)
    return (vector > vector.mean()).astype(np.int64)


def recursive_cut(graph: PatchGraph, max_parts: int) -> list[np.ndarray]:
    """Cut the part whose cut is the cheapest, again and again (Shi and Malik 2000, section 3.2).

    Args:
        graph: n nodes.
        max_parts: stop when there are so many.

    Returns:
        Labels (n,) int64 of 1, 2, ... parts; each is one of the last cut in two. Fewer if no part
        has an edge.
    """
    everything = np.arange(graph.num_nodes)
    levels = [np.zeros(graph.num_nodes, np.int64)]
    cuts = [_cheapest_cut(graph, everything)]
    while len(levels) < max_parts:
        part = min(range(len(cuts)), key=lambda number: cuts[number][0])
        cost, split_off = cuts[part]
        if not np.isfinite(cost):
            break
        labels = levels[-1].copy()
        labels[split_off] = len(levels)
        cuts[part] = _cheapest_cut(graph, everything[labels == part])
        cuts.append(_cheapest_cut(graph, split_off))
        levels.append(labels)
    return levels


def _cheapest_cut(graph: PatchGraph, nodes: np.ndarray) -> tuple[float, np.ndarray]:
    """Normalised cut of some of the nodes, and those of them on one side; infinite if none."""
    inside = graph.dense()[np.ix_(nodes, nodes)]
    members = tuple(nodes[:, None])
    part = PatchGraph(inside, graph.positions_yx[nodes], graph.grid_hw, members)
    one = normalised_cut(part) == 1
    if not one.any():
        return np.inf, nodes
    weights = _connected(inside)
    cut = weights[one][:, ~one].sum()
    return float(cut / weights[one].sum() + cut / weights[~one].sum()), nodes[one]


def _connected(weights: np.ndarray) -> np.ndarray:
    """Every pair gets an edge, of `WEAK_EDGE` of the largest weight at least (TokenCut's 1e-5)."""
    weights = np.maximum(weights, WEAK_EDGE * weights.max())
    np.fill_diagonal(weights, 0)
    return weights


def _binarised(graph: PatchGraph, share: float) -> PatchGraph:
    if not 0 < share <= 1:
        raise ValueError(f"Normalised cut: found binarise={share}, expected a share in (0, 1]")
    weights = graph.dense()
    pairs = weights[np.triu_indices(len(weights), 1)]
    threshold = np.quantile(pairs, 1 - share)
    binary = ((weights >= threshold) & (weights > 0)).astype(float)
    return PatchGraph(binary, graph.positions_yx, graph.grid_hw, graph.members)
