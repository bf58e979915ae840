"""The study as a picture, and segments' quality against the autoencoder's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2_multitask.data.whole_files import whole_file
from d2_multitask.patch_graph.relation import ESTIMATORS
from studies.relations.relations import CONTROL_RELATION, split_network
from studies.relations.table import MAIN, StudyResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTROL_COLOR, ERROR_COLOR, OTHER_COLOR = "#b04a2f", "#1f4e79", "#8fb4d9"


def draw_study(result: StudyResult, path: Path) -> None:
    """A bar a method, IoU on patches with its standard error; controls in another colour."""
    from matplotlib.figure import Figure

    names = [method.name for method in result.methods]
    estimates = [result.estimate(name) for name in names]
    colors = [_color(method.relation, bool(method.division)) for method in result.methods]
    figure = Figure(figsize=(7, 0.6 + 0.26 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        range(len(names)),
        [e.mean for e in estimates],
        xerr=[e.error for e in estimates],
        color=colors,
        height=0.7,
        ecolor="#404040",
    )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first method on top
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"IoU on patches, mean of {result.num_images} images ± standard error")
    figure.suptitle("red: controls; dark: from reconstruction errors; light: others", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path)


def draw_quality(tables: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """IoU against the autoencoder's relative error, a line a method; dashed if it is constant.

    Args:
        tables: contents of ``table.json`` of studies with different weights.
        names: of the methods; those that a table lacks are left out.
        path: of the picture.

    Raises:
        ValueError: no table has any of the methods.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    tables = sorted(tables, key=lambda table: -table["relative_error"])
    shown = 0
    for name in names:
        points = [
            (t["relative_error"], t["results"][name][MAIN]) for t in tables if name in t["results"]
        ]
        if points:
            x = [error for error, _ in points]
            y, spread = ([p[key] for _, p in points] for key in ("mean", "error"))
            if len(set(y)) == 1 and len(y) > 1:  # it does not ask the autoencoder
                axes.axhline(y[0], linestyle="--", linewidth=1, color=f"C{shown}", label=name)
            else:
                axes.errorbar(
                    x, y, yerr=spread, marker="o", capsize=3, color=f"C{shown}", label=name
                )
            shown += 1
    if not shown:
        raise ValueError(f"Found none of {list(names)} in the tables, expected names of methods")
    axes.invert_xaxis()
    axes.set_xlabel("relative reconstruction error of the autoencoder (better to the right)")
    axes.set_ylabel("IoU on patches")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    save_figure(figure, path)


def _color(relation: str, is_relation: bool) -> str:
    if not is_relation or relation == CONTROL_RELATION or split_network(relation)[1]:
        return CONTROL_COLOR
    return ERROR_COLOR if ESTIMATORS.keys() & set(relation.split("+")) else OTHER_COLOR


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=130, format="png")
