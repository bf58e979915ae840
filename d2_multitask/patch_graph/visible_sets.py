"""Random visible sets in which every patch takes part equally often.

Letters: L patches, K of them visible, M sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


def visible_counts(visible_ratios: Sequence[float], num_patches: int) -> list[int]:
    """Shares of visible patches -> numbers of patches, each once, at least 1 and below L.

    Raises:
        ValueError: no ratio, or one that is not in (0, 1).
    """
    if not visible_ratios or not all(0 < ratio < 1 for ratio in visible_ratios):
        raise ValueError(
            f"Visible ratios: found {list(visible_ratios)}, expected numbers between 0 and 1"
        )
    counts = {min(max(1, round(ratio * num_patches)), num_patches - 1) for ratio in visible_ratios}
    return sorted(counts)


def balanced_sets(num_patches: int, count: int, seed: Sequence[int]) -> Iterator[Tensor]:
    """Endless visible sets of one size.

    Each run of floor(L / K) sets is a permutation of the patches cut into pieces, so that no patch
    is in two of them.

    Args:
        num_patches: L.
        count: K.
        seed: numbers that the sets follow from.

    Yields:
        (L,) bool, True = visible.
    """
    generator = np.random.default_rng(seed)
    while True:
        permutation = torch.from_numpy(generator.permutation(num_patches))
        for first in range(0, num_patches - count + 1, count):
            visible = torch.zeros(num_patches, dtype=torch.bool)
            visible[permutation[first : first + count]] = True
            yield visible


def interleaved_sets(num_patches: int, counts: Sequence[int], seed: int) -> Iterator[Tensor]:
    """Endless visible sets whose sizes take turns: (L,) bool each.

    However many are taken, the sizes are equally frequent, and a longer run starts with a shorter
    one.
    """
    streams = [balanced_sets(num_patches, count, (seed, count)) for count in counts]
    while True:
        for stream in streams:
            yield next(stream)
