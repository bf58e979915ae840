"""Two parts of a graph by its second eigenvector (Shi and Malik 2000; as in TokenCut, arXiv 2202.11539)."""

from __future__ import annotations

import numpy as np

from d2_multitask.patch_graph.graph import PatchGraph


def second_eigenvector(graph: PatchGraph) -> np.ndarray:
    """(n,) float64: the relaxed normalised cut, (D - W) y = lambda D y, second smallest lambda.

    Its sign is such that the entry of largest magnitude is positive. Zeros if there is no edge.
    """
    raise NotImplementedError


def normalised_cut(graph: PatchGraph, *, binarise: float | None = None) -> np.ndarray:
    """Cut a graph in two at the mean of the second eigenvector.

    Args:
        graph: n nodes.
        binarise: TokenCut's tau: weights above this quantile of all pairs become 1, the others
            1e-5; ``None`` = weights as they are.

    Returns:
        (n,) int64: 1 = the part with the entry of largest magnitude, which TokenCut takes for the
        foreground; 0 = the rest. All 0 if the graph has no edge.
    """
    raise NotImplementedError
