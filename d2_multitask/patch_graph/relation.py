"""How much one patch of an image helps to reconstruct another one.

Letters: L = h * w patches in reading order. A relation's entry [i, j] belongs to the target i and
the source j.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import Autoencoder, ErrorMeter, is_flat, patch_grid_of
from d2_multitask.patch_graph.estimators import (
    ConditionalMeans,
    Estimator,
    LeaveOneOut,
    Ridge,
    SingleSource,
)
from d2_multitask.patch_graph.similarity import (
    color_similarity,
    distance_similarity,
    encoder_similarity,
    raw_pixel_similarity,
)


@dataclass(frozen=True)
class Relation:
    """Which patch helps which, and how sure that is.

    Attributes:
        matrix: (L, L) float32 on the CPU; [i, j] = how much patch j helps to reconstruct patch i.
            From errors: by which share of its usual error patch i gets better when j becomes
            visible (0.1 = 10 % less error; negative = worse). Other kinds: a similarity. The
            diagonal is 0.
        grid_hw: (h, w).
        standard_error: (L, L) float32 of the entries, ``inf`` where a pair was never observed;
            ``None`` where nothing is sampled.
        passes: forward passes that it took, one per visible set.
        seconds: wall clock time that it took, all included.
        name: the kind, or the kinds of a mixture.
    """

    matrix: Tensor
    grid_hw: tuple[int, int]
    standard_error: Tensor | None = None
    passes: int = 0
    seconds: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        length = self.grid_hw[0] * self.grid_hw[1]
        if self.matrix.shape != (length, length):
            raise ValueError(
                f"Relation: found a matrix {tuple(self.matrix.shape)} for a grid of "
                f"{self.grid_hw[0]}x{self.grid_hw[1]} patches, expected ({length}, {length})"
            )

    def symmetric(self) -> Tensor:
        """(L, L): the mean of both directions, signed."""
        return (self.matrix + self.matrix.T) / 2


@dataclass(frozen=True)
class Budget:
    """What a measurement may cost; both ``None`` = the default of the kind.

    Attributes:
        passes: forward passes, one per visible set.
        seconds: wall clock time; a batch that would go beyond it is not started.
    """

    passes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("passes", self.passes), ("seconds", self.seconds)):
            if value is not None and not value > 0:
                raise ValueError(f"Budget: found {value} {name}, expected more than 0")


ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "single_source": SingleSource,
    "ridge": Ridge,
    "conditional_means": ConditionalMeans,
    "leave_one_out": LeaveOneOut,
}
"""Relations from reconstruction errors, which take many passes."""

SIMILARITIES: dict[str, Callable[..., Tensor]] = {
    "encoder_features": encoder_similarity,
    "color": color_similarity,
    "raw_pixels": raw_pixel_similarity,
    "distance": distance_similarity,
}
"""Relations from at most one pass: functions of model and image."""


def measure_relation(
    model: Autoencoder,
    image: Tensor,
    kind: str = "ridge",
    budget: Budget | None = None,
    **options: Any,
) -> Relation:
    """Measure one kind of relation on one image; arguments and errors as of `measure_anytime`.

    Returns:
        The relation from the whole budget. An image of one colour has the relation 0, at no cost;
        ``distance`` looks at no colour.
    """
    (relation,) = measure_anytime(model, image, kind, budget, only_last=True, **options)
    return relation


def measure_anytime(
    model: Autoencoder,
    image: Tensor,
    kind: str = "ridge",
    budget: Budget | None = None,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    only_last: bool = False,
    **settings: Any,
) -> Iterator[Relation]:
    """Yield an estimate of a relation, with its uncertainty, after each batch.

    Stop iterating when it is good enough. Before the relation is identified nothing is yielded.

    Args:
        model: the autoencoder, in evaluation mode; its ``patch_size`` alone is used by ``color``,
            ``raw_pixels`` and ``distance``.
        image: (3, H, W), normalised, multiples of the patch.
        kind: a key of `ESTIMATORS` or `SIMILARITIES`.
        budget: for the kinds in `ESTIMATORS`; default: L passes for ``single_source``, 2 L for the
            others. ``single_source`` never needs more than L.
        seed: of the visible sets. The sets of a larger budget contain those of a smaller one.
        batch_size: visible sets per forward pass; ``None`` = as many as are fast.
        dtype: ``torch.bfloat16`` = mixed precision.
        only_last: yield once, when the budget is spent, which saves the solving in between.
        **settings: of the kind, see the classes and functions in the two tables.

    Yields:
        Relations, each from all passes so far.

    Raises:
        ValueError: unknown kind, a model without decoder, an image that does not fit the patch, or
            a budget too small to identify the relation (the message says what is needed).
    """
    start = time.perf_counter()
    grid_hw = patch_grid_of(image, model.patch_size)
    if kind in ESTIMATORS:
        meter = ErrorMeter(model, image, batch_size=batch_size, dtype=dtype)
    elif kind not in SIMILARITIES:
        known = [*ESTIMATORS, *SIMILARITIES]
        raise ValueError(f"Relation: found the kind {kind!r}, expected one of {known}")
    if kind != "distance" and is_flat(image):
        yield Relation(torch.zeros(2 * (math.prod(grid_hw),)), grid_hw, name=kind)
        return
    if kind in SIMILARITIES:
        matrix = SIMILARITIES[kind](model, image, **settings)
        passes = int(kind == "encoder_features")
        yield Relation(matrix, grid_hw, None, passes, time.perf_counter() - start, kind)
        return
    estimator = ESTIMATORS[kind](meter.num_patches, seed=seed, **settings)
    rounds = _rounds(estimator, meter, budget or Budget(), only_last)
    for is_last in rounds:
        if (only_last and not is_last) or meter.passes < estimator.required_passes:
            continue
        matrix, error = estimator.estimate()
        yield Relation(matrix, grid_hw, error, meter.passes, time.perf_counter() - start, kind)


def _rounds(
    estimator: Estimator, meter: ErrorMeter, budget: Budget, only_last: bool
) -> Iterator[bool]:
    """Measure round after round; yields after each whether it was the last one."""
    start = time.perf_counter()
    total = _total_passes(estimator, budget)
    num_sizes = len(getattr(estimator, "counts", (1,)))
    round_passes: float = num_sizes * meter.batch_size
    if only_last and budget.seconds is None:
        round_passes = total  # at once: the largest batches
    num_sets = round_passes if budget.seconds is None else num_sizes  # first, find the pace
    is_last = False
    while not is_last:
        seconds_before = meter.seconds
        visible = estimator.draw(int(num_sets))
        estimator.add(visible, meter.errors(visible))
        next_sets = min(round_passes, total - meter.passes)
        if budget.seconds is not None:
            # The latest pace: first batches are slower.
            pace = (meter.seconds - seconds_before) / num_sets
            left = budget.seconds - (time.perf_counter() - start)
            next_sets = min(next_sets, left // pace)
        num_sets = next_sets
        is_last = num_sets < 1
        if is_last:
            _check_passes(estimator, meter, budget)
        yield is_last


def _total_passes(estimator: Estimator, budget: Budget) -> float:
    """Passes that a budget allows, ``inf`` if only the clock ends it."""
    total = budget.passes or (estimator.default_passes if budget.seconds is None else math.inf)
    total = min(total, estimator.max_passes or math.inf)
    if total < estimator.required_passes:
        raise ValueError(
            f"Budget: found {total} passes, which cannot identify the relation of "
            f"{estimator.num_patches} patches; expected at least {estimator.required_passes}"
        )
    return total


def _check_passes(estimator: Estimator, meter: ErrorMeter, budget: Budget) -> None:
    """Raise or warn if all passes together were too few."""
    if meter.passes < estimator.required_passes:
        needed = estimator.required_passes * meter.seconds / meter.passes
        raise ValueError(
            f"Budget: {budget.seconds} seconds were enough for {meter.passes} passes, which cannot "
            f"identify the relation of {estimator.num_patches} patches; expected at least "
            f"{estimator.required_passes}, about {needed:.2g} seconds"
        )
    message = estimator.warning(meter.passes)
    if message is not None:
        warnings.warn(f"Relation: {message}", stacklevel=2)


def rank_average(relations: Sequence[Relation]) -> Relation:
    """Mix relations of different units: the mean of their ranks.

    Each symmetric matrix is replaced by the ranks of its pairs, scaled to [-1, 1], so that the
    better half of the pairs is positive.

    Args:
        relations: at least one, on the same grid.

    Returns:
        The mixture; passes and seconds are sums.

    Raises:
        ValueError: none is given, or grids differ.
    """
    grids = {relation.grid_hw for relation in relations}
    if len(grids) != 1:
        raise ValueError(f"Relations: found the grids {sorted(grids)}, expected one and the same")
    ranks = torch.stack([_centred_ranks(relation.symmetric()) for relation in relations])
    return Relation(
        ranks.mean(0),
        relations[0].grid_hw,
        passes=sum(relation.passes for relation in relations),
        seconds=sum(relation.seconds for relation in relations),
        name="+".join(relation.name for relation in relations),
    )


def _centred_ranks(matrix: Tensor) -> Tensor:
    """Symmetric (L, L) -> ranks of its pairs in [-1, 1], ties shared, diagonal 0.

    Pairs that are all equal, as of a flat image, get 0.
    """
    first, second = np.triu_indices(len(matrix), 1)
    ranks = rankdata(matrix.numpy()[first, second])
    centred = (2 * ranks - ranks.size - 1) / max(1, ranks.size - 1)
    result = torch.zeros(matrix.shape)
    result[first, second] = torch.from_numpy(centred).float()
    return result + result.T
