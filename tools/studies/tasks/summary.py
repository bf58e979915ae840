"""What is on disk -> the numbers of the table: means, spreads, differences, and what is missing."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from d2_multitask.data.folder_lock import FolderLock
from d2_multitask.evaluation.results import RESULTS_FILE
from studies.tasks.columns import Column, ResultKey, flat_results
from studies.tasks.plan import Run
from studies.tasks.record import (
    RECORD_FILE,
    Record,
    State,
    read_record,
    training_seconds,
)


@dataclass(frozen=True)
class Summary:
    """Mean over seeds.

    Attributes:
        mean: of the values.
        spread: their sample standard deviation (n - 1 in the denominator); ``None`` for one value.
        count: how many values.
    """

    mean: float
    spread: float | None
    count: int


def summarize(values: Sequence[float]) -> Summary | None:
    """Mean and spread; ``None`` without values."""
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), spread, len(values))


@dataclass
class RunResult:
    """One finished, failed or missing training.

    Attributes:
        seed: of the run.
        state: where it stands.
        reason: why it has no results; for people.
        values: its numbers; ``None`` for what could not be computed.
        training_seconds: of the steps alone, ``None`` if unknown.
        parameters: of the network, ``None`` if unknown.
        setting: datasets and schedule, as the run's own config says.
    """

    seed: int
    state: State
    reason: str = ""
    values: dict[ResultKey, float | None] = field(default_factory=dict)
    training_seconds: float | None = None
    parameters: int | None = None
    setting: dict[str, str] = field(default_factory=dict)


@dataclass
class RowResult:
    """The runs of a row, in the order of their seeds."""

    name: str
    label: str
    tasks: tuple[str, ...]
    config_file: str
    position: int
    runs: list[RunResult]

    @property
    def finished(self) -> list[RunResult]:
        """The runs that have results."""
        return [run for run in self.runs if run.state is State.FINISHED]

    def by_seed(self, column: Column) -> dict[int, float]:
        """Seed -> value, of the runs that have one."""
        values = {run.seed: run.values.get(column.key) for run in self.finished}
        return {seed: value for seed, value in values.items() if value is not None}

    def summary(self, column: Column) -> Summary | None:
        """Mean and spread of a metric over the seeds."""
        return summarize(list(self.by_seed(column).values()))

    def expects(self, column: Column) -> bool:
        """Whether this network answers for the column's task."""
        return column.task in self.tasks

    @property
    def minutes(self) -> Summary | None:
        """Training time, minutes."""
        known = (run.training_seconds for run in self.finished)
        return summarize([seconds / 60 for seconds in known if seconds is not None])

    @property
    def parameters(self) -> int | None:
        """Parameters of the network."""
        return next((run.parameters for run in self.finished if run.parameters), None)


def collect(output: Path, rows: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[RowResult]:
    """Everything that a study's folder knows, in the order of the table.

    Args:
        output: the study's folder, with ``<row>/seed<k>/run.json`` below it.
        rows: names of the rows wanted, empty = all.
        seeds: the seeds wanted, empty = all.

    Raises:
        ValueError: a record or result file is damaged.
    """
    found: dict[str, list[tuple[Record, Path]]] = {}
    for path in sorted(output.glob(f"*/seed*/{RECORD_FILE}")):
        record = read_record(path.parent)
        wanted = record is not None and (not rows or record.row in rows)
        if wanted and (not seeds or record.seed in seeds):
            found.setdefault(record.row, []).append((record, path.parent))
    results = []
    for runs in found.values():
        runs.sort(key=lambda run: run[0].seed)
        first = runs[0][0]
        results.append(
            RowResult(
                first.row,
                first.label,
                first.tasks,
                first.config_file,
                first.position,
                [_run_result(record, folder) for record, folder in runs],
            )
        )
    return sorted(results, key=lambda row: (row.position, row.name))


def with_planned(rows: Sequence[RowResult], runs: Sequence[Run]) -> list[RowResult]:
    """Rows, and in their places those runs of a plan that have not begun.

    Args:
        rows: from `collect`; unchanged.
        runs: of the plan.
    """
    by_name = {row.name: replace(row, runs=list(row.runs)) for row in rows}
    for run in runs:
        plan = run.row
        empty = RowResult(plan.name, plan.label, plan.tasks, plan.config_file, plan.position, [])
        row = by_name.setdefault(plan.name, empty)
        if run.seed not in [known.seed for known in row.runs]:
            row.runs.append(RunResult(run.seed, State.PLANNED))
            row.runs.sort(key=lambda known: known.seed)
    return sorted(by_name.values(), key=lambda row: (row.position, row.name))


def _run_result(record: Record, folder: Path) -> RunResult:
    result = RunResult(record.seed, record.state, record.reason, parameters=record.parameters)
    if record.state is State.FINISHED:
        result.values = _read_values(folder / RESULTS_FILE)
        result.training_seconds = training_seconds(folder)
        result.setting = _setting(folder / "config.yaml")
    elif record.state is State.RUNNING:
        holder = FolderLock(folder).holder()
        result.state = State.RUNNING if holder else State.INTERRUPTED
        result.reason = f"in {holder}" if holder else "its process was killed"
    return result


def _read_values(path: Path) -> dict[ResultKey, float | None]:
    try:
        return flat_results(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: found {error!r}, expected the results of a finished run; delete run.json "
            "beside it to evaluate the run again"
        ) from None


def _setting(path: Path) -> dict[str, str]:
    """What all rows should have in common, from a run's config."""
    if not path.is_file():
        return {}
    cfg = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        "training data": ", ".join(cfg["DATASETS"]["TRAIN"]),
        "evaluation data": ", ".join(cfg["DATASETS"]["TEST"]),
        "iterations": str(cfg["SOLVER"]["MAX_ITER"]),
        "images a batch": str(cfg["SOLVER"]["IMS_PER_BATCH"]),
    }


def baseline_of(rows: Sequence[RowResult], column: Column, name: str = "") -> RowResult | None:
    """The row that others are compared with in a column.

    Args:
        rows: of the study.
        column: the metric.
        name: of the row to compare with; empty = the one that does the column's task alone.

    Returns:
        The row; ``None`` if there is none, or several do the task alone.
    """
    if name:
        return next((row for row in rows if row.name == name), None)
    return single_of(rows, column.task)


def single_of(rows: Sequence[RowResult], task: str) -> RowResult | None:
    """The network that does a task alone, or with the fewest others, as masks need boxes.

    Returns:
        The row; ``None`` if none does the task, or several do it with as few others.
    """
    having = [row for row in rows if task in row.tasks]
    fewest = min((len(row.tasks) for row in having), default=0)
    smallest = [row for row in having if len(row.tasks) == fewest]
    return smallest[0] if len(smallest) == 1 else None


def difference(row: RowResult, baseline: RowResult | None, column: Column) -> Summary | None:
    """Mean and spread of (row - baseline), seed by seed: both saw the same data in this order.

    Args:
        row: what is compared.
        baseline: with this; the row itself and ``None`` have no difference.
        column: the metric.
    """
    if baseline is None or baseline is row:
        return None
    own, other = row.by_seed(column), baseline.by_seed(column)
    return summarize([own[seed] - other[seed] for seed in own if seed in other])


def share_of_singles(row: RowResult, rows: Sequence[RowResult]) -> dict[str, float | None]:
    """Parameters and training time of a joint network, relative to its single-task networks.

    Returns:
        ``parameters`` and ``minutes``: joint / sum over the networks for one task alone (see
        `single_of`) that together do the same; ``None`` if one of them is not known. Empty for
        single-task rows.
    """
    if len(row.tasks) < 2:
        return {}
    singles = {task: single_of(rows, task) for task in row.tasks}
    if any(single is None or single is row for single in singles.values()):
        return {"parameters": None, "minutes": None}
    # What another of them does along with its own task needs no network of its own.
    alone = [
        single
        for single in {single.name: single for single in singles.values()}.values()
        if not any(set(single.tasks) < set(other.tasks) for other in singles.values())
    ]
    minutes = [r.minutes.mean if r.minutes else None for r in (row, *alone)]
    parameters = [r.parameters for r in (row, *alone)]
    return {"parameters": _share(parameters), "minutes": _share(minutes)}


def _share(values: Sequence[float | None]) -> float | None:
    """First / sum of the others."""
    if any(value is None for value in values):
        return None
    first, *others = values
    return first / math.fsum(others)


def problems(
    rows: Iterable[RowResult],
    columns: Sequence[Column],
    asked: Collection[tuple[str, int]] | None = None,
) -> list[str]:
    """Why the table is not complete, a line for each run and unknown metric; for people.

    Args:
        rows: of the table.
        columns: of the table.
        asked: name of the row and seed of the runs that matter, ``None`` = all.
    """
    rows = list(rows)
    lines = _unknown_metrics(rows, columns)
    for row in rows:
        for run in row.runs:
            reason = _problem(row, run, columns)
            if reason and (asked is None or (row.name, run.seed) in asked):
                lines.append(f"{row.label}, seed {run.seed}: {reason}")
    return lines


def _unknown_metrics(rows: Sequence[RowResult], columns: Sequence[Column]) -> list[str]:
    """The columns that no results know, of which no task would be missing a value."""
    known = {key: None for row in rows for run in row.finished for key in run.values}
    names = ", ".join("/".join(filter(None, key)) for key in known)
    return [
        f"{column.name}: found in no results, expected some of: {names}"
        for column in columns
        if known and not column.task and column.key not in known
    ]


def _problem(row: RowResult, run: RunResult, columns: Sequence[Column]) -> str:
    """Why a run does not fill its line of the table; empty if it does."""
    if run.state is not State.FINISHED:
        return f"{run.state.value}: {run.reason}" if run.reason else run.state.value
    missing = [c.label for c in columns if row.expects(c) and run.values.get(c.key) is None]
    if not missing:
        return ""
    return f"no {', '.join(missing)}: the evaluation data has no labels for it"


def common_setting(rows: Iterable[RowResult]) -> tuple[dict[str, str], list[str]]:
    """What the finished runs have in common, and the names of what differs between them."""
    settings: list[Mapping[str, str]] = [
        run.setting for row in rows for run in row.finished if run.setting
    ]
    values = {key: {setting[key] for setting in settings} for key in (settings or [{}])[0]}
    common = {key: next(iter(found)) for key, found in values.items() if len(found) == 1}
    return common, [key for key, found in values.items() if len(found) > 1]
