"""Paired differences of methods on the same images, and whether an autoencoder learned anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from studies.relations.networks import EARLY, UNTRAINED
from studies.relations.relations import of_network

NOT_DISTINGUISHABLE = "not distinguishable from an untrained autoencoder"


class Estimate(NamedTuple):
    """A mean over images and its standard error, in 0-100."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.error:.1f}"


def estimate(values: np.ndarray) -> Estimate:
    """Mean and standard error of the values that are numbers."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Estimate(math.nan, math.nan)
    error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return Estimate(float(known.mean()), float(error))


def difference(values: Mapping[str, np.ndarray], name: str, baseline: str) -> Estimate | None:
    """Of two methods; ``None`` if it is the same one, or there is no such baseline."""
    if name == baseline or baseline not in values:
        return None
    return estimate(values[name] - values[baseline])


def difference_table(values: Mapping[str, np.ndarray], baselines: Sequence[str]) -> str:
    """Each method against the baselines, and against itself with other weights.

    Args:
        values: method -> (N,) of the images.
        baselines: names of methods.

    Returns:
        Markdown, with a line for each method that `undistinguished` finds.
    """
    networks = [n for n in (UNTRAINED, EARLY) if any(of_network(m, n) in values for m in values)]
    rows = [
        [name, *map(_signed, found)]
        for name in values
        for found in [
            [difference(values, name, b) for b in baselines]
            + [difference(values, name, of_network(name, n)) for n in networks]
        ]
    ]
    headers = [*baselines, *(f"itself, {network}" for network in networks)]
    table = grid_table(rows, ["relation / division", *(f"against {h}" for h in headers)])
    verdicts = [
        f"- {name}: {NOT_DISTINGUISHABLE} ({_signed(found)})."
        for name, found in undistinguished(values).items()
    ]
    return "\n\n".join([table, *(["\n".join(verdicts)] if verdicts else [])])


def undistinguished(values: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    """Methods within two standard errors of the same with an untrained autoencoder."""
    found = {name: difference(values, name, of_network(name, UNTRAINED)) for name in values}
    return {
        name: value
        for name, value in found.items()
        # one image has no standard error, and tells nothing
        if value and not abs(value.mean) > 2 * value.error
    }


def _signed(value: Estimate | None) -> str:
    return "–" if value is None else f"{value.mean:+.1f} ± {value.error:.1f}"


def grid_table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Markdown."""
    text = [[str(cell) for cell in row] for row in rows]
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(text, headers, tablefmt="github", colalign=align, disable_numparse=True)
