"""How long a random walk over the patches takes to leave the image: objects hold it.

Saliency as absorption time is of Jiang et al., "Saliency Detection via Absorbing Markov Chain"
(ICCV 2013), who walk between superpixels by their colours. Letters: h x w patches, n = h * w.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve

from d2_multitask.patch_graph.graph import PatchGraph, border_patches

# A step ends the walk anywhere with about this probability, so that no time is above 1 / LEAK.
LEAK = 1e-3


def absorption_times(graph: PatchGraph) -> np.ndarray:
    """Mean number of steps of a random walk until it leaves the image.

    A step goes to another patch with a probability proportional to the edge's weight. Each patch of
    the image's border has a copy outside, with the same edges and one to the patch itself, as
    strong as its strongest; there the walk ends. What is related
    to the border, directly or over others, is left soon. Where the patch is plays no other role, as
    long as edges do not depend on the distance: with ``locality`` the walk takes longest in the
    middle of any image.

    Args:
        graph: of patches, without ``members``.

    Returns:
        (h, w) float64, at least 1; 1 for a patch without edges. Patches from which no edges lead to
        the border, directly or over others, have the longest time of all others.
    """
    border = border_patches(graph.grid_hw).flatten()
    weights = sparse.csr_array(graph.weights)
    to_copies = weights[:, border].sum(1) + border * weights.max(axis=1).toarray().flatten()
    degree = (weights.sum(1) + to_copies) * (1 + LEAK)
    alone = degree == 0
    degree[alone] = 1
    # t_i = 1 + sum_j P_ij t_j, multiplied by the degree, so that it is symmetric
    times = spsolve((sparse.diags_array(degree) - weights).tocsc(), degree)
    _, part = connected_components(weights, directed=False)
    held = ~np.isin(part, part[border]) & ~alone
    times[held] = times[~held].max()
    return times.reshape(graph.grid_hw)


def otsu_threshold(values: np.ndarray) -> float:
    """The threshold that divides values into the two classes with the least variance inside.

    Otsu's criterion, exact, not on a histogram. Values above it are the upper class; all equal, but
    for rounding: none is.
    """
    ordered = np.sort(values, axis=None).astype(np.float64)
    count = np.arange(1, len(ordered))
    below = ordered.cumsum()[:-1]
    # between-class variance, up to a constant factor
    mean = ordered.mean()
    between = (below - mean * count) ** 2 / (count * (len(ordered) - count))
    between[np.diff(ordered) <= 1e-9 * np.abs(ordered).max()] = 0
    return float(ordered[between.argmax()]) if between.any() else float(ordered[-1])
