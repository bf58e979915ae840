"""The study as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from studies.tasks.columns import Column
from studies.tasks.reference import paper_rows
from studies.tasks.summary import (
    RowResult,
    Summary,
    baseline_of,
    common_setting,
    difference,
    problems,
    share_of_singles,
)

NOTHING = "–"


@dataclass(frozen=True)
class Study:
    """What a table is made of.

    Attributes:
        rows: of the table.
        columns: of the table.
        command: that makes it.
        baseline: name of the row that the others are compared with; empty = for each metric the
            network that does its task alone.
        reference: put the paper's Table 1 beside it.
    """

    rows: Sequence[RowResult]
    columns: Sequence[Column]
    command: str = ""
    baseline: str = ""
    reference: bool = False


def study_markdown(study: Study) -> str:
    """The tables, what they show, and what is missing in them."""
    parts = ["# Task sets compared"]
    if study.command:
        parts.append(f"```sh\n{study.command}\n```")
    parts.append(_setting_text(study.rows))
    parts.append(table_of_values(study))
    if _compared(study.rows, study.baseline):
        parts += ["## Differences", _differences_text(study), table_of_differences(study)]
    if study.reference:
        parts += ["## Beside the paper's Table 1", _REFERENCE_TEXT, *tables_with_paper(study)]
    missing = problems(study.rows, study.columns)
    if missing:
        parts += ["## Not complete", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts) + "\n"


_REFERENCE_TEXT = (
    "The paper's numbers are of COCO (people only), from the authors' poster; its backbone, "
    "schedule and input size are not published. Where data or budget differ, only the differences "
    "between rows can be compared."
)


def _setting_text(rows: Sequence[RowResult]) -> str:
    common, differing = common_setting(rows)
    words = [f"{key} {value}" for key, value in common.items()]
    words += [f"**{key} differ between the rows**" for key in differing]
    same = f"Setting: {'; '.join(words)}. " if words else ""
    return (
        f"{same}Mean over the seeds, ± their sample standard deviation. AP and IoU in 0-100. "
        "Minutes are those of the training steps, without evaluation."
    )


def _differences_text(study: Study) -> str:
    pairs = "mean ± sample standard deviation of the differences seed by seed."
    if study.baseline:
        return f"Minus the row {study.baseline}; {pairs}"
    return (
        f"Minus the network that does this task alone, or with the fewest others; {pairs} The last "
        "columns: the joint "
        "network's parameters and training time, divided by those of its single-task networks "
        "together."
    )


def table_of_values(study: Study) -> str:
    """Table 1: the metrics, then minutes, parameters and seeds."""
    headers = ["row", *(c.label for c in study.columns), "minutes", "parameters", "seeds"]
    lines = [
        [
            row.label,
            *(_cell(row, column) for column in study.columns),
            number(row.minutes),
            NOTHING if row.parameters is None else f"{row.parameters / 1e6:.2f} M",
            _seeds(row),
        ]
        for row in study.rows
    ]
    return _table(headers, lines)


def table_of_differences(study: Study) -> str:
    """Each row minus its baseline."""
    headers = ["row", *(column.label for column in study.columns)]
    if not study.baseline:
        headers += ["parameters, joint / separate", "minutes, joint / separate"]
    lines = []
    for row in _compared(study.rows, study.baseline):
        line = [row.label, *(_difference_cell(study, row, column) for column in study.columns)]
        if not study.baseline:
            shares = share_of_singles(row, study.rows).values()
            line += [NOTHING if share is None else f"{share:.2f}" for share in shares]
        lines.append(line)
    return _table(headers, lines)


def tables_with_paper(study: Study) -> list[str]:
    """Values, then differences to the single-task rows: ours and the paper's side by side."""
    paper = {frozenset(row.tasks): row for row in paper_rows()}
    known = [c for c in study.columns if any(row.by_seed(c) for row in paper.values())]
    headers = ["row", *(text for c in known for text in (c.label, "paper"))]
    values, differences = [], []
    for row in study.rows:
        theirs = paper.get(frozenset(row.tasks))
        line = [row.label]
        for column in known:
            line += [_cell(row, column), number(theirs.summary(column) if theirs else None)]
        values.append(line)
        if len(row.tasks) > 1:
            line = [row.label]
            for column in known:
                theirs_minus = _paper_difference(paper, theirs, column)
                line += [_difference_cell(study, row, column), theirs_minus]
            differences.append(line)
    return [_table(headers, values), "Differences:", _table(headers, differences)]


def _paper_difference(
    paper: dict[frozenset[str], RowResult], row: RowResult | None, column: Column
) -> str:
    single = paper.get(frozenset({column.task}))
    return number(difference(row, single, column) if row else None, signed=True)


def _difference_cell(study: Study, row: RowResult, column: Column) -> str:
    baseline = baseline_of(study.rows, column, study.baseline)
    return number(difference(row, baseline, column), signed=True)


def _compared(rows: Sequence[RowResult], baseline: str) -> list[RowResult]:
    """The rows that are compared with another: all but the baselines."""
    if baseline:
        return [row for row in rows if row.name != baseline]
    return [row for row in rows if len(row.tasks) > 1]


def number(summary: Summary | None, *, signed: bool = False) -> str:
    """``58.1 ± 0.3``; ``58.1`` for one seed."""
    if summary is None:
        return NOTHING
    rounded = round(summary.mean, 1) + 0.0  # never "-0.0"
    mean = f"{rounded:+.1f}" if signed else f"{rounded:.1f}"
    return mean if summary.spread is None else f"{mean} ± {summary.spread:.1f}"


def _cell(row: RowResult, column: Column) -> str:
    summary = row.summary(column)
    expected = row.expects(column) or not row.tasks  # a config that cannot be read: any
    if summary is not None or not expected:
        return number(summary)
    if row.finished:
        return "no labels"
    return row.runs[0].state.value


def _seeds(row: RowResult) -> str:
    finished, asked = len(row.finished), len(row.runs)
    return str(asked) if finished == asked else f"{finished} of {asked}"


def _table(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True, colalign=align)


def study_json(study: Study) -> str:
    """All numbers, those of each seed included."""
    content = {
        "command": study.command,
        "columns": [{"name": c.name, "label": c.label, "task": c.task} for c in study.columns],
        "rows": [_row_json(study, row) for row in study.rows],
        "not_complete": problems(study.rows, study.columns),
    }
    if study.reference:
        content["paper"] = [
            {"label": row.label, "tasks": row.tasks, "values": _means(row, study.columns)}
            for row in paper_rows()
        ]
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _row_json(study: Study, row: RowResult) -> dict[str, Any]:
    differences = {
        column.name: difference(row, baseline_of(study.rows, column, study.baseline), column)
        for column in study.columns
    }
    return {
        "name": row.name,
        "label": row.label,
        "tasks": row.tasks,
        "config_file": row.config_file,
        "parameters": row.parameters,
        "minutes": _summary_json(row.minutes),
        "values": {c.name: _summary_json(row.summary(c)) for c in study.columns},
        "differences": {name: _summary_json(summary) for name, summary in differences.items()},
        "joint_to_separate": share_of_singles(row, study.rows),
        "seeds": {
            str(run.seed): {
                "state": run.state.value,
                "reason": run.reason,
                "training_seconds": run.training_seconds,
                "values": {c.name: run.values.get(c.key) for c in study.columns},
            }
            for run in row.runs
        },
    }


def _means(row: RowResult, columns: Sequence[Column]) -> dict[str, float | None]:
    summaries = {column.name: row.summary(column) for column in columns}
    return {name: summary.mean if summary else None for name, summary in summaries.items()}


def _summary_json(summary: Summary | None) -> dict[str, Any] | None:
    if summary is None:
        return None
    return {"mean": summary.mean, "spread": summary.spread, "count": summary.count}
