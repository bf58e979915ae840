"""Relations from reconstruction errors: which sets to measure, and what follows from the errors.

Letters: L patches, i the target and j the source, R passes, K patches of a visible set, e_i(S) the
error of patch i when the set S is visible. Errors are relative, r_i(S) = e_i(S) / (mean of e_i over
the sets of the same size without i) - 1: no patch counts more because it is hard to reconstruct,
no set because it is small.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

VISIBLE_RATIOS = (0.03, 0.12, 0.25)
# How often a pair (i hidden, j visible) must be expected for an estimate from random sets.
MIN_OBSERVATIONS = 4
# Errors are divided by their mean; that of a perfect reconstruction is 0.
ERROR_EPS = 1e-12
# Of the temporary tensor when the ridge regressions of several targets are solved together.
SOLVE_BYTES = 64 * 2**20


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
    """Endless visible sets (L,) bool of K = ``count`` patches.

    Each run of floor(L / K) sets is a permutation of the patches cut into pieces, so that every
    patch is visible equally often.
    """
    generator = np.random.default_rng(seed)
    while True:
        permutation = torch.from_numpy(generator.permutation(num_patches))
        for first in range(0, num_patches - count + 1, count):
            visible = torch.zeros(num_patches, dtype=torch.bool)
            visible[permutation[first : first + count]] = True
            yield visible


def interleaved_sets(num_patches: int, counts: Sequence[int], seed: int) -> Iterator[Tensor]:
    """Endless visible sets whose sizes take turns; a longer run starts with a shorter one."""
    streams = [balanced_sets(num_patches, count, (seed, count)) for count in counts]
    while True:
        for stream in streams:
            yield next(stream)


class Estimator(ABC):
    """Draws visible sets and estimates the relation from their errors.

    Attributes:
        required_passes: fewer cannot identify the relation.
        default_passes: what a budget without numbers means.
        max_passes: more would measure nothing new; ``None`` = no limit.
    """

    required_passes: int
    default_passes: int
    max_passes: int | None = None

    def __init__(self, num_patches: int) -> None:
        self.num_patches = num_patches
        self._sets = self._stream()
        self._visible: list[Tensor] = []
        self._errors: list[Tensor] = []

    @abstractmethod
    def _stream(self) -> Iterator[Tensor]:
        """All visible sets, (L,) bool, in the order in which they are to be measured."""

    @abstractmethod
    def estimate(self) -> tuple[Tensor, Tensor | None]:
        """The relation from all passes so far.

        Returns:
            (L, L) float32, [i, j] = how much patch j helps patch i; and its standard error (L, L),
            ``inf`` where nothing was observed, or ``None`` if nothing is sampled.
        """

    def draw(self, num_sets: int) -> Tensor:
        """The next sets to measure: (M, L) bool, M at most ``num_sets``."""
        return torch.stack(list(islice(self._sets, num_sets)))

    def add(self, visible: Tensor, errors: Tensor) -> None:
        """Add the errors (M, L) of the sets (M, L) that `draw` gave."""
        self._visible.append(visible)
        self._errors.append(errors)

    def warning(self, passes: int) -> str | None:
        """What a user should know about an estimate from so many passes."""
        return None

    def _samples(self) -> tuple[Tensor, Tensor]:
        """All sets (R, L) bool, and their errors (R, L) float32."""
        return torch.cat(self._visible), torch.cat(self._errors)


class SingleSource(Estimator):
    """R1: one patch visible at a time, exact; as long as the budget is L passes.

    I_ij = (mean_j' e_i({j'}) - e_i({j})) / mean_j' e_i({j'}). Reaches far, but an autoencoder is
    trained with many more visible patches.
    """

    def __init__(self, num_patches: int, seed: int = 0) -> None:
        """``seed`` is ignored: nothing is random."""
        super().__init__(num_patches)
        self.required_passes = self.default_passes = self.max_passes = num_patches

    def _stream(self) -> Iterator[Tensor]:
        return iter(torch.eye(self.num_patches, dtype=torch.bool))

    def estimate(self) -> tuple[Tensor, Tensor | None]:
        """See `Estimator.estimate`; exact."""
        visible, errors = self._samples()
        relative = relative_errors(visible, errors)  # (L sources, L targets)
        return -relative.T.contiguous().fill_diagonal_(0), None


class RandomSets(Estimator):
    """Random sets of several sizes, each as often."""

    def __init__(
        self, num_patches: int, seed: int = 0, visible_ratios: Sequence[float] = VISIBLE_RATIOS
    ) -> None:
        """
        Args:
            num_patches: L.
            seed: of the sets.
            visible_ratios: shares of visible patches that take turns. Many visible patches give
                sharp relations between neighbours, few give relations far away.

        Raises:
            ValueError: see `visible_counts`.
        """
        self.counts = visible_counts(visible_ratios, num_patches)
        self.seed = seed
        super().__init__(num_patches)
        shares = [count / num_patches for count in self.counts]
        observed = sum(share * (1 - share) for share in shares) / len(shares)
        self.required_passes = math.ceil(MIN_OBSERVATIONS / observed)
        self.default_passes = max(2 * num_patches, self.required_passes)

    def _stream(self) -> Iterator[Tensor]:
        return interleaved_sets(self.num_patches, self.counts, self.seed)


class ConditionalMeans(RandomSets):
    """A2: the mean of r_i over sets without j, less that over sets with j."""

    def estimate(self) -> tuple[Tensor, Tensor | None]:
        """See `Estimator.estimate`."""
        visible, errors = self._samples()
        relative = relative_errors(visible, errors)  # (R, L targets), 0 where visible
        hidden = (~visible).float()
        with_source = _moments(relative, hidden, visible.float())
        without_source = _moments(relative, hidden, hidden)
        matrix = without_source[0] - with_source[0]
        error = (without_source[1] + with_source[1]).sqrt()
        return matrix.fill_diagonal_(0), error.fill_diagonal_(0)


def _moments(relative: Tensor, hidden: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of r_i over the sets where a condition on j holds, and the variance of that mean.

    All arguments are (R, L), the results (L targets, L sources); a mean of nothing is 0 with an
    infinite variance.
    """
    samples = hidden.T @ condition
    mean = relative.T @ condition / samples.clamp(min=1)
    square = relative.square().T @ condition / samples.clamp(min=1)
    spread = (square - mean.square()).clamp(min=0) / (samples - 1).clamp(min=1)
    return mean, spread.where(samples > 1, torch.inf)


class Ridge(RandomSets):
    """R2: random sets and a ridge regression of each patch's relative error on what is visible.

    r_i(S) = a_i - sum_j I_ij [j in S], fitted on the sets without i; the intercept a_i is one for
    each size of sets, and is not shrunk.
    """

    def __init__(
        self,
        num_patches: int,
        seed: int = 0,
        visible_ratios: Sequence[float] = VISIBLE_RATIOS,
        ridge: float | None = None,
        with_standard_error: bool = True,
    ) -> None:
        """
        Args:
            num_patches: see `RandomSets`, and likewise ``seed`` and ``visible_ratios``.
            seed: of the sets.
            visible_ratios: of the sets.
            ridge: lambda, weight of the squared coefficients against the squared residuals. It
                does not grow with the passes, so that with many of them nothing is shrunk.
                ``None`` = 0.375 times the mean number of visible patches: the more patches share
                an effect, the smaller each one's part is expected to be.
            with_standard_error: costs as much as the estimate itself.

        Raises:
            ValueError: see `visible_counts`; or the ridge is not positive.
        """
        super().__init__(num_patches, seed, visible_ratios)
        if ridge is not None and ridge <= 0:
            raise ValueError(f"Ridge: found {ridge}, expected more than 0")
        self.ridge = ridge or 0.375 * sum(self.counts) / len(self.counts)
        self.with_standard_error = with_standard_error

    def warning(self, passes: int) -> str | None:
        """Fewer passes than unknowns."""
        if passes >= self.num_patches:
            return None
        return (
            f"{passes} passes are fewer than the {self.num_patches} coefficients of a patch, so "
            f"the ridge decides between them; {self.num_patches} passes or more identify the "
            "relation"
        )

    def estimate(self) -> tuple[Tensor, Tensor | None]:
        """See `Estimator.estimate`; the error is that of the shrunk estimate, without its bias."""
        visible, errors = self._samples()
        relative = relative_errors(visible, errors)  # (R, L), 0 where visible
        centred = _Centring(visible)
        step = max(1, SOLVE_BYTES // (4 * len(visible) * self.num_patches))
        chunks = torch.arange(self.num_patches).split(step)
        parts = [
            self._solve(centred.gram(targets), visible, relative, targets) for targets in chunks
        ]
        matrix = torch.cat([part[0] for part in parts])
        if not self.with_standard_error:
            return matrix, None
        return matrix, torch.cat([part[1] for part in parts])

    def _solve(
        self, gram: Tensor, visible: Tensor, relative: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gram matrices (T, L, L) of T targets -> influences (T, L), standard errors (T, L)."""
        y = relative[:, targets]  # (R, T)
        moment = y.T @ visible.float()  # (T, L)
        penalised = gram + self.ridge * torch.eye(self.num_patches)
        factor = torch.linalg.cholesky(penalised)
        coefficients = torch.cholesky_solve(moment[..., None], factor)[..., 0]
        if not self.with_standard_error:
            return -coefficients, coefficients
        inverse = torch.cholesky_inverse(factor)
        diagonal = inverse.diagonal(dim1=1, dim2=2)  # (T, L)
        degrees = self.num_patches - self.ridge * diagonal.sum(1)
        fitted = (coefficients[:, None] @ gram @ coefficients[..., None])[:, 0, 0]
        residual = y.square().sum(0) - 2 * (coefficients * moment).sum(1) + fitted
        samples = (~visible[:, targets]).sum(0)
        variance = residual.clamp(min=0) / (samples - degrees).clamp(min=1)
        spread = diagonal - self.ridge * inverse.square().sum(1)
        error = (variance[:, None] * spread.clamp(min=0)).sqrt()
        return -coefficients, error.scatter_(1, targets[:, None], 0.0)


class _Centring:
    """Gram matrices of the indicators of visible patches, centred for each target and size."""

    def __init__(self, visible: Tensor) -> None:
        self.x = visible.float()
        self.hidden = 1 - self.x
        self.sums, self.samples = [], []
        counts = visible.sum(1)
        for count in counts.unique():
            rows = counts == count
            self.sums.append(self.hidden[rows].T @ self.x[rows])  # (L targets, L)
            self.samples.append(self.hidden[rows].sum(0).clamp(min=1))  # (L targets,)

    def gram(self, targets: Tensor) -> Tensor:
        """(T, L, L): sums over the sets without the target of products of centred indicators."""
        weighted = self.hidden[:, targets].T[:, None] * self.x.T  # (T, L, R)
        gram = weighted @ self.x
        for sums, samples in zip(self.sums, self.samples, strict=True):
            part = sums[targets] / samples[targets, None].sqrt()
            gram -= part[:, :, None] * part[:, None, :]
        return gram


class LeaveOneOut(Estimator):
    """R3: a set V, and V without each of its patches in turn; the differences are paired.

    I_ij = mean over V of (e_i(V without j) - e_i(V)) / mean_V e_i(V), i not in V.
    """

    def __init__(self, num_patches: int, seed: int = 0, visible_ratio: float = 0.25) -> None:
        """
        Args:
            num_patches: L.
            seed: of the sets V.
            visible_ratio: share of V.

        Raises:
            ValueError: see `visible_counts`.
        """
        # a set of one patch cannot lose it
        self.count = max(2, visible_counts([visible_ratio], num_patches)[0])
        self.seed = seed
        super().__init__(num_patches)
        share = self.count / num_patches
        self.required_passes = math.ceil(1 / (share * (1 - share))) * (self.count + 1)
        self.default_passes = max(2 * num_patches, self.required_passes)

    def _stream(self) -> Iterator[Tensor]:
        for base in balanced_sets(self.num_patches, self.count, (self.seed, self.count)):
            yield base
            for source in base.nonzero()[:, 0]:
                visible = base.clone()
                visible[source] = False
                yield visible

    def estimate(self) -> tuple[Tensor, Tensor | None]:
        """See `Estimator.estimate`; sets V that are not complete yet are left out."""
        visible, errors = self._samples()
        group = self.count + 1
        num_groups = len(visible) // group
        visible = visible[: num_groups * group].view(num_groups, group, -1)
        errors = errors[: num_groups * group].view(num_groups, group, -1)
        base, hidden = visible[:, 0], (~visible[:, 0]).float()  # (B, L)
        usual = (errors[:, 0] * hidden).sum(0) / hidden.sum(0).clamp(min=1)  # (L targets,)
        difference = (errors[:, 1:] - errors[:, :1]) / usual.clamp(min=ERROR_EPS)
        difference = difference * hidden[:, None]  # (B, K, L targets)
        sources = base.nonzero()[:, 1]  # (B * K,), in the order of the stream
        return _mean_by_source(difference.flatten(0, 1), hidden.T @ base.float(), sources)


def _mean_by_source(difference: Tensor, samples: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the differences (Q, L targets) that belong to each source, and its standard error.

    The spread is estimated for each target over all sources, since a pair has few samples.

    Args:
        difference: 0 where the target is visible.
        samples: (L targets, L sources), how many differences a pair has.
        sources: (Q,).
    """
    length = len(samples)
    sums = torch.zeros(length, length).index_add_(0, sources, difference).T
    mean = (sums / samples.clamp(min=1)).fill_diagonal_(0)
    within = difference.square().sum(0) - (mean.square() * samples).sum(1)
    degrees = (samples - 1).clamp(min=0).sum(1).clamp(min=1)
    variance = (within.clamp(min=0) / degrees)[:, None] / samples.clamp(min=1)
    return mean, variance.sqrt().where(samples > 0, torch.inf).fill_diagonal_(0)


def relative_errors(visible: Tensor, errors: Tensor) -> Tensor:
    """e_i(S) / mean of e_i over the sets of the same size without i, minus 1.

    Args:
        visible: (R, L) bool.
        errors: (R, L) float32.

    Returns:
        (R, L) float32; 0 where the patch is visible or its mean error is 0.
    """
    hidden = (~visible).float()
    relative = torch.zeros_like(errors)
    counts = visible.sum(1)
    for count in counts.unique():
        rows = counts == count
        usual = (errors[rows] * hidden[rows]).sum(0) / hidden[rows].sum(0).clamp(min=1)
        scaled = errors[rows] / usual.clamp(min=ERROR_EPS) - 1
        relative[rows] = scaled * hidden[rows] * (usual > ERROR_EPS)
    return relative
