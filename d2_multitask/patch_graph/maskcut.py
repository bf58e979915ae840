"""MaskCut: several objects by normalised cuts, one after the other.

Wang et al., "Cut and learn for unsupervised object detection and instance segmentation", arXiv
2301.11320, section 3.2. The graph is of cosines of patch features. Letters: n nodes, h x w patches.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg, ndimage

from d2_multitask.patch_graph.foreground import Foreground
from d2_multitask.patch_graph.graph import PatchGraph

MASKCUT = "maskcut"
RELATION = "encoder_features"
THRESHOLD = 0.15  # cosines above it become edges of weight 1
WEAK_EDGE = 1e-5  # weight of all other pairs, so that the graph has one second eigenvector
MAX_OBJECTS = 3
MIN_SHARE = 0.01  # of the patches, of objects after the first
MAX_CORNERS = 2  # of the image, in an object's side of a cut


def second_eigenvector(weights: np.ndarray) -> np.ndarray:
    """The relaxed normalised cut: (D - W) y = lambda D y for the second smallest lambda.

    Args:
        weights: (n, n) float64, symmetric, all rows with a positive sum.

    Returns:
        (n,) float64, whose entry of largest magnitude is positive.
    """
    degrees = np.diag(weights.sum(1))
    vector = linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 1])[1][:, 0]
    return vector * np.sign(vector[np.abs(vector).argmax()])


def mask_cut(graph: PatchGraph) -> np.ndarray:
    """Cut a graph in two at the mean of its second eigenvector, take the object out, and again.

    The object's side has the eigenvector's entry of largest magnitude, or is the other one if that
    has more than two of the image's corners; the object is the connected part of its side that has
    the side's largest entry. Its patches then have weak edges only.

    Args:
        graph: of all patches, n = h w, with cosines as weights.

    Returns:
        (h, w) int64: 1, 2, 3 = the objects in the order in which they were found, 0 = the rest.
        Fewer objects where no edge, or no more than a hundredth of the patches, is left for one.
    """
    similar = graph.dense() > THRESHOLD
    labels = np.zeros(graph.grid_hw, np.int64)
    for number in range(1, MAX_OBJECTS + 1):
        left = (labels == 0).flatten()
        edges = similar & left & left[:, None]
        if not edges.any():
            break
        weights = np.where(edges | np.diag(left), 1.0, WEAK_EDGE)
        found = _object(second_eigenvector(weights).reshape(graph.grid_hw), labels == 0)
        if not found.any() or (number > 1 and found.mean() <= MIN_SHARE):
            break
        labels[found] = number
    return labels


def _object(vector: np.ndarray, left: np.ndarray) -> np.ndarray:
    """(h, w) bool: the object of an eigenvector (h, w), without patches that are not left."""
    side = vector > vector.mean()
    if side[[0, 0, -1, -1], [0, -1, 0, -1]].sum() > MAX_CORNERS:
        side, vector = ~side, -vector
    side &= left
    parts, _ = ndimage.label(side)
    return side & (parts == parts.flat[np.where(side, vector, -np.inf).argmax()])


def as_foreground(labels: np.ndarray) -> Foreground:
    """The objects of `mask_cut` (h, w) as one decision, with a candidate and a score for each.

    MaskCut gives no scores: object k has 1 / k, so that the one that was found first is the best.
    """
    numbers = np.arange(1, labels.max() + 1)
    scores = 1 / numbers
    mask = labels > 0 if numbers.size else None
    candidates = labels == numbers[:, None, None]
    return Foreground(mask, max(scores, default=-np.inf), candidates, scores, MASKCUT)
