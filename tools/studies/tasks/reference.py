"""The MCN paper's Table 1, to be put beside ours.

COCO, people only. The numbers are those that the authors' poster quotes; backbone, schedule and
input size are not published, and rows that are missing here are missing there.
"""

from __future__ import annotations

from studies.tasks.columns import TABLE_1, ResultKey
from studies.tasks.plan import row_label
from studies.tasks.record import State
from studies.tasks.summary import RowResult, RunResult

PERSON_IOU, BOX_AP, _, KEYPOINT_AP, _ = (column.key for column in TABLE_1)

PAPER_TABLE_1: dict[tuple[str, ...], dict[ResultKey, float]] = {
    ("seg",): {PERSON_IOU: 74.4},
    ("det",): {BOX_AP: 45.0},
    ("seg", "det"): {PERSON_IOU: 72.8, BOX_AP: 45.2},
    ("det", "pose"): {BOX_AP: 42.8, KEYPOINT_AP: 53.6},
    ("seg", "det", "pose"): {PERSON_IOU: 74.3, BOX_AP: 42.0, KEYPOINT_AP: 54.1},
}


def paper_rows() -> list[RowResult]:
    """The paper's table in the form of ours: one run a row, its "seed" is 0."""
    return [
        RowResult(
            "_".join(tasks),
            row_label(tasks),
            tasks,
            "",
            position,
            [RunResult(0, State.FINISHED, values=dict(values))],
        )
        for position, (tasks, values) in enumerate(PAPER_TABLE_1.items())
    ]
