"""Shares, cosines and condition number over a training, and the automatic weights, if any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from studies.gradients.measure import Curves, Measurement
from studies.gradients.report import mean_shares
from studies.relations.picture import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED_PAIRS = 7
# The axis reaches at least as far: noise shall not look like a result.
MIN_COSINES = 0.2
# What a training with automatic weights logs: label, factor.
LOGGED = {"weight": ("automatic weight", 1), "share": ("share in training, %", 100)}


def draw_gradients(
    measurements: Sequence[Measurement], curves: Mapping[str, Curves], path: Path
) -> None:
    """Write the picture.

    Args:
        measurements: by iteration, at least one.
        curves: of automatic weights and of shares of the gradient, of `read_curves`.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    tasks = list(measurements[0].by_task.norms)
    iterations = [m.iteration for m in measurements]
    panels = [_draw_cosines, _draw_condition] if len(tasks) > 1 else []
    logged = [kind for kind in LOGGED if curves.get(kind)]
    rows = 1 + len(panels) + len(logged)
    figure = Figure(figsize=(7, 0.4 + 1.7 * rows), layout="constrained")
    axes = figure.subplots(rows, sharex=True, squeeze=False)[:, 0].tolist()
    _stack_shares(axes[0], iterations, measurements)
    for panel, draw in zip(axes[1:], panels, strict=False):
        draw(panel, iterations, measurements)
    for panel, kind in zip(axes[1 + len(panels) :], logged, strict=True):
        label, factor = LOGGED[kind]
        for task in tasks:  # a line even if it is empty: the colours are those of the areas
            curve = curves[kind].get(task, {})
            panel.plot(curve.keys(), [factor * value for value in curve.values()], label=task)
        panel.set_ylabel(label)
        if kind == "share":
            panel.set_ylim(0, None)
        else:
            _set_logarithmic(panel)
    axes[-1].set_xlabel("iteration")
    axes[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    for panel in axes:
        panel.margins(x=0.01)
        panel.grid(alpha=0.3)
        handles, labels = panel.get_legend_handles_labels()
        if handles:
            order = -1 if panel is axes[0] else 1  # that of the areas, from below
            place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
            panel.legend(handles[::order], labels[::order], fontsize=8, frameon=False, **place)
    figure.align_ylabels(axes)
    save_figure(figure, path)


def _stack_shares(panel: Axes, x: Sequence[int], measurements: Sequence[Measurement]) -> None:
    """Areas; small ones are not seen, so the legend has means."""
    means = mean_shares(measurements)
    shares = [[100 * m.by_task.shares[task] for m in measurements] for task in means]
    labels = [f"{task} {100 * mean:.1f} %" for task, mean in means.items()]
    if len(x) == 1:  # an area needs two
        x, shares = [x[0] - 0.5, x[0] + 0.5], [2 * values for values in shares]
    panel.stackplot(x, *shares, labels=labels)
    panel.set(ylabel="share of gradient, %", ylim=(0, 100), axisbelow=True)


def _draw_cosines(panel: Axes, x: Sequence[int], measurements: Sequence[Measurement]) -> None:
    """A line a pair; those whose mean is farthest from 0 have a colour and a name."""
    from matplotlib import colormaps

    colors = colormaps["Dark2"].colors  # not those of the tasks
    curves = {pair: [m.pairs[pair] for m in measurements] for pair in measurements[0].pairs}
    ordered = sorted(curves, key=lambda pair: -abs(fmean(curves[pair])))
    for place, pair in enumerate(ordered):
        named = place < NAMED_PAIRS
        label = " – ".join(pair) if named else "other pairs" if place == NAMED_PAIRS else None
        style = {"color": colors[place]} if named else {"color": "0.8", "linewidth": 0.8}
        panel.plot(x, curves[pair], ".-", label=label, zorder=3 if named else 1, **style)
    panel.axhline(0, color="0.3", linewidth=0.8)
    low, high = panel.get_ylim()
    panel.set(ylabel="cosine", ylim=(min(low, -MIN_COSINES), max(high, MIN_COSINES)))


def _draw_condition(panel: Axes, x: Sequence[int], measurements: Sequence[Measurement]) -> None:
    values = [m.by_task.condition for m in measurements]
    panel.plot(x, [math.nan if math.isinf(v) else v for v in values], ".-", color="0.3")
    finite = [v for v in values if math.isfinite(v)]
    if finite and max(finite) > 20 * min(finite):
        _set_logarithmic(panel)
    panel.set(ylabel="condition number", ylim=(1, None))


def _set_logarithmic(panel: Axes) -> None:
    """With ticks at 1, 2, 5, 10, ..., not "2 x 10^0"."""
    from matplotlib.ticker import LogLocator, NullFormatter

    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(NullFormatter())
