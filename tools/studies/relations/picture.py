"""The study as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from d2_multitask.data.whole_files import whole_file
from d2_multitask.patch_graph.relation import ESTIMATORS
from studies.relations.relations import CONTROL_RELATION, split_network
from studies.relations.table import StudyResult

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
