"""How close a relation is after so many passes to what it would be after very many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2_multitask.modeling.mae import MAENetwork
from d2_multitask.patch_graph.autoencoder import ErrorMeter
from d2_multitask.patch_graph.estimators import Estimator
from d2_multitask.patch_graph.relation import ESTIMATORS
from studies.relations.picture import save_figure

SAMPLED_KINDS = ("ridge", "conditional_means", "leave_one_out")
# Far from all seeds that the curves are measured with.
REFERENCE_SEED = 10**6


def measure_convergence(
    model: MAENetwork,
    images: Iterable[Tensor],
    kinds: Sequence[str] = SAMPLED_KINDS,
    passes: Sequence[int] = (72, 144, 288, 576),
    *,
    reference_passes: int = 1728,
    seeds: Sequence[int] = (0, 1),
    dtype: torch.dtype | None = None,
) -> dict[str, np.ndarray]:
    """Relative squared error of the symmetric relation, by number of passes.

    The reference is the same kind's estimate from other visible sets, so its own sampling error is
    part of every number: curves cannot fall to 0.

    Args:
        model: in evaluation mode.
        images: (3, H, W) each, normalised.
        kinds: of relations that are sampled.
        passes: increasing.
        reference_passes: of the reference.
        seeds: of the curves.
        dtype: ``torch.bfloat16`` = mixed precision.

    Returns:
        Kind -> (images x seeds, len(passes)): squared difference to the reference as a share of the
        reference's square.

    Raises:
        ValueError: passes do not increase, or are too few for a kind.
    """
    if list(passes) != sorted(set(passes)) or not passes or passes[-1] > reference_passes:
        raise ValueError(
            f"Passes: found {list(passes)}, expected increasing numbers up to {reference_passes}"
        )
    curves: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    for image in images:
        for kind in kinds:
            meter = ErrorMeter(model, image, dtype=dtype)
            (reference,) = _estimates(kind, meter, (reference_passes,), REFERENCE_SEED)
            for seed in seeds:
                estimates = _estimates(kind, meter, passes, seed)
                curves[kind].append([_relative_error(e, reference) for e in estimates])
    return {kind: np.array(values) for kind, values in curves.items()}


def _estimates(kind: str, meter: ErrorMeter, passes: Sequence[int], seed: int) -> list[Tensor]:
    """Symmetric relations after so many passes; each is measured once."""
    estimator: Estimator = ESTIMATORS[kind](meter.num_patches, seed=seed)
    if passes[0] < estimator.required_passes:
        raise ValueError(
            f"Passes: found {passes[0]}, expected at least {estimator.required_passes} for the "
            f"relation {kind!r} of {meter.num_patches} patches"
        )
    estimates, done = [], 0
    for total in passes:
        visible = estimator.draw(total - done)
        estimator.add(visible, meter.errors(visible))
        done = total
        matrix = estimator.estimate()[0]
        estimates.append((matrix + matrix.T) / 2)
    return estimates


def _relative_error(estimate: Tensor, reference: Tensor) -> float:
    return float((estimate - reference).square().sum() / reference.square().sum().clamp(min=1e-12))


def convergence_table(curves: dict[str, np.ndarray], passes: Sequence[int]) -> str:
    """Markdown: mean and standard error of each kind (rows) after so many passes (columns)."""
    lines = [
        "| relation | " + " | ".join(f"{number} passes" for number in passes) + " |",
        "|---|" + "---|" * len(passes),
    ]
    for kind, values in curves.items():
        errors = values.std(0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0 * values[0]
        cells = [f"{m:.3f} ± {e:.3f}" for m, e in zip(values.mean(0), errors, strict=True)]
        lines.append(f"| `{kind}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw_convergence(curves: dict[str, np.ndarray], passes: Sequence[int], path: Path) -> None:
    """A curve a kind, with standard errors, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    for kind, values in curves.items():
        spread = values.std(0) / np.sqrt(len(values))
        axes.errorbar(passes, values.mean(0), yerr=spread, marker="o", capsize=3, label=kind)
    axes.set(xscale="log", yscale="log", xlabel="forward passes")
    axes.set_xticks(passes, [str(number) for number in passes], minor=False)
    axes.minorticks_off()
    axes.set_ylabel("squared error / square of the reference")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)
