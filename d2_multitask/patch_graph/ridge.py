"""R2: the relation as a ridge regression of errors on what is visible.

Letters: L patches, R passes, T targets that are solved together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from d2_multitask.patch_graph.estimators import VISIBLE_RATIOS, RandomSets, relative_errors

# Of the temporary tensor when the regressions of several targets are solved together.
SOLVE_BYTES = 64 * 2**20


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
            num_patches: L.
            seed: of the sets.
            visible_ratios: see `RandomSets`.
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
        """
        Args:
            visible: (R, L) bool.
        """
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
