"""One-to-one matching of boundary pixels within a distance.

The BSDS benchmark (``correspondPixels``) solves an assignment problem in which a pixel without a
partner costs 100 times the largest distance, which is a maximum bipartite matching. Here it is
computed exactly on the sparse graph of pixels within the distance: pairs by ascending distance,
then Dinic's maximum flow for the rest. BSDS' code connects each pixel with only six randomly
drawn outlier nodes, and may miss a pair.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow


class PixelPairs(NamedTuple):
    """Matched pixels as indices into the row-major flat map, each at most once.

    Attributes:
        predicted: (n,) int64.
        labelled: (n,) int64.
    """

    predicted: np.ndarray
    labelled: np.ndarray


@lru_cache(maxsize=64)
def disc_offsets(radius: float) -> np.ndarray:
    """Integer offsets (dy, dx) at most ``radius`` pixels long, the shortest first, (n, 2) int64."""
    reach = int(radius)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    squared = dy**2 + dx**2
    order = np.argsort(squared, axis=None, kind="stable")
    offsets = np.stack([dy.ravel(), dx.ravel()], axis=1)[order]
    return offsets[squared.ravel()[order] <= radius**2]


def disc_kernel(radius: float) -> np.ndarray:
    """`disc_offsets` as a kernel for `cv2.dilate`, (2 r + 1, 2 r + 1) uint8."""
    reach = int(radius)
    disc = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
    disc[tuple((disc_offsets(radius) + reach).T)] = 1
    return disc


class BoundaryMatcher:
    """Matches the labelled boundary of one image with predicted boundaries.

    The number of pairs is the largest possible. The total distance is close to the smallest,
    because the nearest free partner is tried first.
    """

    def __init__(self, label: np.ndarray, max_distance: float) -> None:
        """
        Args:
            label: (H, W) bool, the labelled boundary pixels.
            max_distance: largest distance of a pair, pixels.

        Raises:
            ValueError: the distance is negative.
        """
        if max_distance < 0:
            raise ValueError(f"max_distance: found {max_distance}, expected 0 or more pixels")
        self._offsets = disc_offsets(max_distance)
        margin = self._margin = int(max_distance)
        height, width = self._shape = label.shape
        self._labelled = np.flatnonzero(label)
        index = np.full((height + 2 * margin, width + 2 * margin), -1, dtype=np.int32)
        inner = index[margin : margin + height, margin : margin + width]
        inner[label != 0] = np.arange(len(self._labelled), dtype=np.int32)
        self._index = index.ravel()
        near = cv2.dilate((index >= 0).astype(np.uint8), disc_kernel(max_distance))
        self._near = near.ravel() > 0
        self._steps = self._offsets[:, 0] * index.shape[1] + self._offsets[:, 1]
        self._stride = index.shape[1]

    @property
    def num_labelled(self) -> int:
        """Number of labelled pixels."""
        return len(self._labelled)

    def match(self, predicted: np.ndarray) -> PixelPairs:
        """Pair predicted with labelled pixels, as many as possible.

        Args:
            predicted: (n,) indices into the flat (H, W) map, each once.
        """
        rows, columns = np.divmod(predicted, self._shape[1])
        places = (rows + self._margin) * self._stride + columns + self._margin
        matchable = self._near[places]
        places, predicted = places[matchable], predicted[matchable]
        neighbours = self._index[places + self._steps[:, None]]  # (number of offsets, n)
        partners = _nearest_first(neighbours, self.num_labelled)
        _augment(partners, neighbours, self.num_labelled)
        found = partners >= 0
        return PixelPairs(predicted[found], self._labelled[partners[found]])


def _nearest_first(neighbours: np.ndarray, num_labelled: int) -> np.ndarray:
    """Pair each predicted pixel with its nearest free label.

    Args:
        neighbours: (m, n) label number or -1 at each offset of each predicted pixel.
        num_labelled: number of labels.

    Returns:
        (n,) label number or -1.
    """
    partners = np.full(neighbours.shape[1], -1, dtype=np.int32)
    taken = np.zeros(num_labelled + 1, dtype=bool)
    taken[-1] = True  # what index -1 reads: no label there
    free = np.arange(neighbours.shape[1])
    for row in neighbours:
        # One offset leads from different pixels to different labels: no two want the same.
        candidates = row[free]
        fits = ~taken[candidates]
        partners[free[fits]] = candidates[fits]
        taken[candidates[fits]] = True
        free = free[~fits]
    return partners


def _augment(partners: np.ndarray, neighbours: np.ndarray, num_labelled: int) -> None:
    """Enlarge a matching to maximum size, in place, by Dinic's maximum flow.

    An augmenting path is a flow of 1 from the source over a free predicted pixel, forward along
    unused pairs and backward along used ones, to a free label and the sink.

    Args:
        partners: (n,) label number or -1.
        neighbours: (m, n) label number or -1.
        num_labelled: number of labels.
    """
    num_predicted = len(partners)
    is_free = np.ones(num_labelled, dtype=bool)
    is_free[partners[partners >= 0]] = False
    free_predicted = np.flatnonzero(partners < 0)
    free_labels = np.flatnonzero(is_free)
    if not len(free_predicted) or not len(free_labels):
        return
    offset, pixel = np.nonzero(neighbours >= 0)
    label = neighbours[offset, pixel]
    used = partners[pixel] == label
    source, sink = num_predicted + num_labelled, num_predicted + num_labelled + 1
    start, end = pixel, label + num_predicted
    start, end = np.where(used, end, start), np.where(used, start, end)
    start = np.concatenate(
        [start, np.full(len(free_predicted), source), num_predicted + free_labels]
    )
    end = np.concatenate([end, free_predicted, np.full(len(free_labels), sink)])
    ones = np.ones(len(start), dtype=np.int32)
    graph = csr_array((ones, (start.astype(np.int32), end.astype(np.int32))), (sink + 1, sink + 1))
    flow = maximum_flow(graph, source, sink, method="dinic").flow.tocoo()
    forward = (flow.data > 0) & (flow.row < num_predicted)
    partners[flow.row[forward]] = flow.col[forward] - num_predicted
