"""Regions grow by measuring again: the poster's larger and larger graphs (R4).

The nodes are regions now. An edge says how much one region, being all that is visible, lowers the
error of the other. The pair with the best edge is merged, what changed is measured again, and so
on: a dendrogram.

Letters: C regions at the start, L patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import Autoencoder, ErrorMeter


@dataclass(frozen=True)
class Merge:
    """One step: regions ``first`` < ``second`` become region ``new``.

    Attributes:
        first: index of a region; 0..C-1 are those of the start, C + t that of step t.
        second: likewise.
        new: likewise.
        score: the edge between the two when they were merged: by which share of the usual error
            each is better reconstructed from the other, mean of both directions.
    """

    first: int
    second: int
    new: int
    score: float


@dataclass(frozen=True)
class Dendrogram:
    """How regions grew together.

    Attributes:
        labels: (h, w) int64, the regions of the start, 0..C-1.
        merges: in the order in which they were made.
        passes: forward passes that it took.
        seconds: wall clock time.
    """

    labels: np.ndarray
    merges: tuple[Merge, ...]
    passes: int = 0
    seconds: float = 0.0

    def labels_at(
        self, *, num_regions: int | None = None, threshold: float | None = None
    ) -> np.ndarray:
        """The regions after some of the merges.

        Args:
            num_regions: merge until so many are left (or all merges are made).
            threshold: merge as long as the score is not below it. Both ``None`` = all merges.

        Returns:
            (h, w) int64, canonical labels.
        """
        raise NotImplementedError


def grow(
    model: Autoencoder,
    image: Tensor,
    labels: np.ndarray,
    *,
    min_regions: int = 2,
    threshold: float | None = None,
    adjacent: bool = True,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    meter: ErrorMeter | None = None,
) -> Dendrogram:
    """Merge the best pair of regions and measure again, until few are left.

    Args:
        model: see `d2_multitask.patch_graph.relation.measure_relation`.
        image: (3, H, W), likewise.
        labels: (h, w) or (L,), the regions of the start.
        min_regions: stop when so many are left.
        threshold: stop when the best edge is below it.
        adjacent: merge only regions that touch (4-neighbours).
        batch_size: as in `measure_relation`.
        dtype: likewise.
        meter: use this one, and count passes there, instead of making one.

    Returns:
        The dendrogram. A region takes one pass, and each merge one more.

    Raises:
        ValueError: labels do not fit the image's patches.
    """
    raise NotImplementedError
