"""Larger and larger graphs: regions are merged and measured again (R4).

The nodes are regions. An edge is by how much one region, being all that is visible, lowers the
error of the other. The pair with the best edge is merged, what changed is measured again, and so
on: a dendrogram.

Letters: C regions at the start, Q of all steps, L patches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import (
    Autoencoder,
    ErrorMeter,
    is_flat,
    patch_grid_of,
)
from d2_multitask.patch_graph.communities import canonical_labels
from d2_multitask.patch_graph.estimators import ERROR_EPS
from d2_multitask.patch_graph.tiles import Window, tile_windows


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
        seconds: wall clock time, ``forward_seconds`` of them in the autoencoder.
        forward_seconds: see there.
    """

    labels: np.ndarray
    merges: tuple[Merge, ...]
    passes: int = 0
    seconds: float = 0.0
    forward_seconds: float = 0.0

    def labels_at(
        self, *, num_regions: int | None = None, threshold: float | None = None
    ) -> np.ndarray:
        """The regions after some of the merges.

        Args:
            num_regions: merge until so many are left (or all merges are made).
            threshold: merge until a score is below it. Both ``None`` = all merges.

        Returns:
            (h, w) int64, canonical labels.
        """
        left = int(self.labels.max()) + 1
        labels = self.labels.copy()
        for merge in self.merges:
            if num_regions is not None and left <= num_regions:
                break
            if threshold is not None and merge.score < threshold:
                break
            labels[(labels == merge.first) | (labels == merge.second)] = merge.new
            left -= 1
        return canonical_labels(labels)


def grow(
    model: Autoencoder,
    image: Tensor,
    labels: np.ndarray,
    *,
    min_regions: int = 2,
    threshold: float | None = None,
    tile_hw: tuple[int, int] | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
) -> Dendrogram:
    """Merge the best pair of regions that touch and measure again, until few are left.

    A patch's usual error is its mean over all regions of the start that do not hold it; so it takes
    three regions to tell which two belong together.

    Args:
        model: see `d2_multitask.patch_graph.relation.measure_relation`.
        image: (3, H, W), likewise.
        labels: (h, w) or (L,), the regions of the start.
        min_regions: stop when so many are left.
        threshold: stop when the best edge is below it.
        tile_hw: (h, w) of tiles in patches: regions are measured in each tile that they reach
            into, so that the autoencoder gets images of the size that it was trained with, and
            regions grow across tiles. ``None`` = the whole image at once.
        batch_size: as in `measure_relation`.
        dtype: likewise.

    Returns:
        The dendrogram. A region takes one pass for each tile that it reaches into, at the start
        and after each merge; what a merge does not change is not measured again. A flat image has
        no dendrogram to measure: no merges.

    Raises:
        ValueError: labels do not fit the image's patches, or ``min_regions`` is below 1.
    """
    start = time.perf_counter()
    grid_hw = patch_grid_of(image, model.patch_size)
    if np.size(labels) != grid_hw[0] * grid_hw[1]:
        raise ValueError(
            f"Labels: found the shape {np.shape(labels)}, expected one label for each of the "
            f"{grid_hw[0]}x{grid_hw[1]} patches"
        )
    labels = canonical_labels(np.reshape(labels, grid_hw))
    if min_regions < 1:
        raise ValueError(f"Growing: found min_regions={min_regions}, expected at least 1")
    windows = tile_windows(grid_hw, tile_hw)
    meters = [
        ErrorMeter(model, window.crop(image, model.patch_size), batch_size=batch_size, dtype=dtype)
        for window in windows
    ]
    merges: list[Merge] = []
    if not is_flat(image) and labels.max() + 1 > max(2, min_regions):
        regions = _Regions(labels, windows, meters)
        while len(regions.alive) > min_regions:
            merge = regions.best_merge()
            if merge is None or (threshold is not None and merge.score < threshold):
                break
            merges.append(merge)
            regions.apply(merge, measure=len(regions.alive) > min_regions + 1)
    return Dendrogram(
        labels,
        tuple(merges),
        sum(meter.passes for meter in meters),
        time.perf_counter() - start,
        sum(meter.seconds for meter in meters),
    )


class _Regions:
    """The regions of all steps, how much they help each other, and which of them are alive.

    Attributes:
        alive: indices of the regions that are not merged into another one.
    """

    def __init__(
        self, labels: np.ndarray, windows: Sequence[Window], meters: Sequence[ErrorMeter]
    ) -> None:
        """Measure the regions ``labels`` (h, w), 0..C-1; one meter per window."""
        count = int(labels.max()) + 1
        self.num_patches = labels.size
        self.members = [labels.flatten() == region for region in range(count)]  # (L,) bool each
        self.touching = region_adjacency(labels)
        self.alive = list(range(count))
        patches = [window.patches(labels.shape) for window in windows]
        self.windows = list(zip(patches, meters, strict=True))
        self.usual: list[np.ndarray] = []
        # (Q, L): how much a region helps each patch, summed over windows, and their number
        self.help = np.zeros((0, self.num_patches))
        self.times = np.zeros((0, self.num_patches))
        self._measure_start()

    def _measure_start(self) -> None:
        """All regions, and from them the usual error of each patch in each window."""
        measured = []
        for patches, meter in self.windows:
            inside = np.stack(self.members)[:, patches]  # (C, l)
            rows = np.flatnonzero(inside.any(1) & ~inside.all(1))
            errors = _measure(meter, inside[rows])
            hidden = ~inside[rows]
            samples = hidden.sum(0)
            usual = (errors * hidden).sum(0) / samples.clip(min=1)
            # of one region alone nothing can be said to be usual
            self.usual.append(np.where((samples > 1) & (usual > ERROR_EPS), usual, np.nan))
            measured.append((rows, errors, hidden))
        self._extend(len(self.members))
        for number, (rows, errors, hidden) in enumerate(measured):
            self._add(number, rows, errors, hidden)

    def _extend(self, count: int) -> None:
        empty = np.zeros((count, self.num_patches))
        self.help = np.concatenate([self.help, empty])
        self.times = np.concatenate([self.times, empty])

    def _add(self, number: int, rows: np.ndarray, errors: np.ndarray, hidden: np.ndarray) -> None:
        """Add what regions (rows) were measured to help in the window of that number."""
        patches = self.windows[number][0]
        gain = 1 - errors / self.usual[number]
        known = hidden & np.isfinite(gain)
        self.help[np.ix_(rows, patches)] += np.where(known, gain, 0)
        self.times[np.ix_(rows, patches)] += known

    def _measure_region(self, region: int) -> None:
        self._extend(1)
        for number, (patches, meter) in enumerate(self.windows):
            inside = self.members[region][patches][None]
            if inside.any() and not inside.all():
                self._add(number, np.array([region]), _measure(meter, inside), ~inside)

    def edges(self) -> np.ndarray:
        """(A, A) between the regions alive: symmetric, -inf where unknown or not allowed."""
        members = np.stack([self.members[region] for region in self.alive]).astype(float)
        sums = self.help[self.alive] @ members.T  # (A sources, A targets)
        times = self.times[self.alive] @ members.T
        gain = np.where(times > 0, sums / times.clip(min=1), np.nan)
        both = np.stack([gain, gain.T])
        known = np.isfinite(both).sum(0)
        mean = np.nansum(both, axis=0) / known.clip(min=1)
        allowed = self.touching[np.ix_(self.alive, self.alive)] & (known > 0)
        np.fill_diagonal(allowed, False)
        return np.where(allowed, mean, -np.inf)

    def best_merge(self) -> Merge | None:
        """The pair with the best edge; ``None`` if there is no edge."""
        edges = self.edges()
        # symmetric: the first of two equals is above the diagonal
        first, second = np.unravel_index(edges.argmax(), edges.shape)
        score = float(edges[first, second])
        if not np.isfinite(score):
            return None
        return Merge(self.alive[first], self.alive[second], len(self.members), score)

    def apply(self, merge: Merge, measure: bool) -> None:
        """Make the merge; measure the new region unless it is not needed any more."""
        pair = [merge.first, merge.second]
        self.members.append(self.members[merge.first] | self.members[merge.second])
        row = self.touching[pair].any(0)
        self.touching = np.block(
            [[self.touching, row[:, None]], [row[None], np.zeros((1, 1), bool)]]
        )
        self.alive = [region for region in self.alive if region not in pair] + [merge.new]
        if measure:
            self._measure_region(merge.new)


def _measure(meter: ErrorMeter, visible: np.ndarray) -> np.ndarray:
    """(M, l) bool -> errors (M, l) float64."""
    if not len(visible):
        return np.zeros(visible.shape)
    return meter.errors(torch.from_numpy(visible)).double().numpy()


def region_adjacency(labels: np.ndarray) -> np.ndarray:
    """(h, w), 0..C-1 -> (C, C) bool: which regions have patches that are 4-neighbours."""
    touching = np.zeros((labels.max() + 1,) * 2, bool)
    touching[labels[1:], labels[:-1]] = True
    touching[labels[:, 1:], labels[:, :-1]] = True
    return touching | touching.T
