"""The study as a picture: a panel for each metric, a dot for each seed, the mean and its spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2_multitask.data.whole_files import whole_file
from studies.tasks.columns import Column
from studies.tasks.markdown import Study
from studies.tasks.summary import RowResult, baseline_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One hue for what is compared, a lighter one for what it rests on; readable in grey too.
MEAN_COLOR, SEED_COLOR, BASELINE_COLOR = "#1f4e79", "#8fb4d9", "#b04a2f"
PANELS_A_LINE = 3
PANEL_INCHES = 2.6
# A panel shows at least this many points of AP or IoU: noise shall not look like a result.
MIN_SPAN = 4.0


def save_picture(study: Study, path: Path) -> None:
    """Draw the study and write it as PNG in one step.

    Args:
        study: rows and columns; metrics without any value get no panel.
        path: of the picture.
    """
    # Takes a second to import, and needs no window this way.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = draw(study)
    FigureCanvasAgg(figure)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=150, format="png")


def draw(study: Study) -> Figure:
    """The figure; rows from top to bottom as in the table."""
    from matplotlib.figure import Figure

    columns = [c for c in study.columns if any(row.by_seed(c) for row in study.rows)]
    across = min(max(len(columns), 1), PANELS_A_LINE)
    down = max(-(-len(columns) // across), 1)
    height = down * (0.8 + 0.32 * max(len(study.rows), 3))
    figure = Figure(figsize=(1.3 + across * PANEL_INCHES, height), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True).flatten().tolist()
    for panel, column in zip(panels, columns, strict=False):
        _draw_panel(panel, study, column)
    for panel in panels[len(columns) :]:
        panel.set_axis_off()
    if not columns:
        figure.text(0.5, 0.5, "no run is finished yet", ha="center")
        return figure
    panels[0].set_ylim(len(study.rows) - 0.5, -0.5)  # the first row on top
    line = f"the row {study.baseline}" if study.baseline else "the network for this task alone"
    figure.supxlabel(
        f"light: each seed; dark: mean ± sample standard deviation; dashed: {line}", fontsize=8
    )
    return figure


def _draw_panel(panel: Axes, study: Study, column: Column) -> None:
    for place, row in enumerate(study.rows):
        _draw_row(panel, place, row, column)
    baseline = baseline_of(study.rows, column, study.baseline)
    summary = baseline.summary(column) if baseline else None
    if summary is not None:
        panel.axvline(summary.mean, color=BASELINE_COLOR, linestyle="--", linewidth=1, zorder=0)
    panel.set_title(column.label, fontsize=10)
    panel.set_yticks(range(len(study.rows)), [row.label for row in study.rows], fontsize=9)
    panel.tick_params(axis="x", labelsize=8)
    panel.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.margins(x=0.12)
    low, high = panel.get_xlim()
    if high - low < MIN_SPAN:
        panel.set_xlim((low + high - MIN_SPAN) / 2, (low + high + MIN_SPAN) / 2)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _draw_row(panel: Axes, place: int, row: RowResult, column: Column) -> None:
    values: Sequence[float] = list(row.by_seed(column).values())
    summary = row.summary(column)
    if summary is None:
        return
    panel.scatter(values, [place] * len(values), s=14, color=SEED_COLOR, zorder=2)
    panel.errorbar(
        summary.mean,
        place,
        xerr=summary.spread,  # None: one seed has no spread
        fmt="o",
        color=MEAN_COLOR,
        markersize=5,
        capsize=3,
        linewidth=1.4,
        zorder=3,
    )
