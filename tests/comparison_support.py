"""Small studies, made by hand."""

from __future__ import annotations

from collections.abc import Mapping

from studies.tasks.columns import TABLE_1, Column
from studies.tasks.plan import TABLE_1_ROWS, row_label
from studies.tasks.record import State
from studies.tasks.summary import RowResult, RunResult


def finished(
    seed: int,
    values: Mapping[Column, float | None],
    *,
    seconds: float | None = None,
    parameters: int | None = None,
    setting: dict[str, str] | None = None,
) -> RunResult:
    return RunResult(
        seed,
        State.FINISHED,
        values={column.key: value for column, value in values.items()},
        training_seconds=seconds,
        parameters=parameters,
        setting=setting or {},
    )


def row(name: str, *runs: RunResult) -> RowResult:
    tasks = tuple(name.split("_"))
    position = TABLE_1_ROWS.index(name)
    return RowResult(name, row_label(tasks), tasks, f"mcn_{name}.yaml", position, list(runs))


def study_rows() -> list[RowResult]:
    """Two single networks and their joint one, two seeds each, of which one diverged."""
    iou, box_ap, box_ap50, *_ = TABLE_1
    return [
        row(
            "seg",
            finished(1, {iou: 70.0}, seconds=60.0, parameters=2_000_000),
            finished(2, {iou: 72.0}, seconds=120.0, parameters=2_000_000),
        ),
        row(
            "det",
            finished(1, {box_ap: 40.0, box_ap50: 80.0}, seconds=90.0, parameters=2_500_000),
            RunResult(2, State.DIVERGED, "loss_det_wh = nan"),
        ),
        row(
            "seg_det",
            finished(
                1, {iou: 69.0, box_ap: 41.0, box_ap50: 81.0}, seconds=108.0, parameters=2_700_000
            ),
            finished(
                2, {iou: 73.0, box_ap: 43.0, box_ap50: 83.0}, seconds=108.0, parameters=2_700_000
            ),
        ),
    ]
