"""What became of a run: ``run.json`` in its folder, and what follows from it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from torch import nn

from d2_multitask.checkpoint import MultitaskCheckpointer
from d2_multitask.data.whole_files import write_text
from d2_multitask.evaluation.results import RESULTS_FILE
from studies.tasks.plan import Run

RECORD_FILE = "run.json"
LAST_CHECKPOINT = "last_checkpoint"  # Detectron2's note of the file to resume from
METRICS_FILE = "metrics.json"  # Detectron2's log; it only ever appends


class State(str, Enum):
    """Where a run stands."""

    PLANNED = "not run yet"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DIVERGED = "diverged"
    FINISHED = "finished"


class Action(str, Enum):
    """What to do with a run."""

    KEEP = "keep"
    RESUME = "resume"
    START = "start"


@dataclass
class Record:
    """A run as its folder remembers it.

    Attributes:
        row: name of the row.
        label: its name in the table.
        tasks: of the network.
        config_file: of the row.
        position: of the row in the table.
        seed: of the run.
        state: where it stands.
        reason: why it did not finish; for people.
        seconds: wall clock of all its sittings, evaluation included.
        parameters: of the network, once it is finished.
    """

    row: str
    label: str
    tasks: tuple[str, ...]
    config_file: str
    position: int
    seed: int
    state: State = State.PLANNED
    reason: str = ""
    seconds: float = 0.0
    parameters: int | None = None

    def write(self, folder: Path) -> None:
        """Write ``folder/run.json`` in one step."""
        content = {**asdict(self), "state": self.state.name}
        write_text(folder / RECORD_FILE, json.dumps(content, indent=2) + "\n")


def new_record(run: Run) -> Record:
    """The record of a run that has not begun."""
    row = run.row
    return Record(row.name, row.label, row.tasks, row.config_file, row.position, run.seed)


def read_record(folder: Path) -> Record | None:
    """The record of a folder, ``None`` if it has none.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / RECORD_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        state = State[content.pop("state")]
        return Record(**{**content, "tasks": tuple(content["tasks"]), "state": state})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: found {error!r}, expected what tools/compare_tasks.py writes; delete the "
            "file to train this run again from its last checkpoint"
        ) from None


def decide(record: Record | None, has_checkpoint: bool, retry: bool = False) -> Action:
    """What to do with a run that no process is training.

    A diverged run is a result: repeated with the same settings it would diverge again.

    Args:
        record: what is known of it.
        has_checkpoint: whether there is something to resume from.
        retry: repeat diverged runs from the start.
    """
    state = record.state if record else State.PLANNED
    if state is State.FINISHED:
        return Action.KEEP
    if state is State.DIVERGED:
        return Action.START if retry else Action.KEEP
    return Action.RESUME if has_checkpoint else Action.START


def outcome(returncode: int, output: str, folder: Path) -> tuple[State, str]:
    """How a training ended, and why if not well.

    Args:
        returncode: of the process, negative = the signal that ended it.
        output: what it printed.
        folder: what it wrote.
    """
    if returncode < 0:
        number = -returncode
        name = signal.Signals(number).name if number in iter(signal.Signals) else str(number)
        hint = "; too little memory?" if name == "SIGKILL" else ""
        return State.INTERRUPTED, f"ended by the signal {name}{hint}"
    diverged = re.search(r"FloatingPointError: (.*)", output)
    if returncode and diverged:
        return State.DIVERGED, diverged.group(1).partition(". All losses")[0]
    if returncode:
        return State.FAILED, _last_words(output) or f"exit code {returncode}"
    if not (folder / RESULTS_FILE).is_file():
        return State.FAILED, f"no {RESULTS_FILE} was written: is DATASETS.TEST empty?"
    return State.FINISHED, ""


def _last_words(output: str) -> str:
    """The message of a failed process: its last ``Error: ...``, or its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")]
    return errors[-1].removeprefix("Error: ") if errors else (lines or [""])[-1]


def has_checkpoint(folder: Path) -> bool:
    """Whether there is something to resume from, also where the note of the last is broken."""
    return MultitaskCheckpointer(nn.Module(), str(folder)).has_checkpoint()


def forget_training(folder: Path) -> None:
    """Delete what an earlier attempt left that a new one would go on from or add to."""
    forget_checkpoints(folder)
    for name in (RESULTS_FILE, METRICS_FILE):
        (folder / name).unlink(missing_ok=True)


def forget_checkpoints(folder: Path, keep: Iterable[str] = ()) -> None:
    """Delete the checkpoints of a run and the note which is the last, except the files named."""
    for path in [*folder.glob("model_*.pth"), folder / LAST_CHECKPOINT]:
        if path.name not in keep:
            path.unlink(missing_ok=True)


def training_seconds(folder: Path) -> float | None:
    """Time that the training steps took, without evaluation and saving; ``None`` if unknown.

    From Detectron2's ``metrics.json``, where each line has the median of the last iterations'
    times. An iteration that was repeated after an interruption counts once, as the last time.
    """
    times = _step_times(folder / METRICS_FILE)
    total, previous = 0.0, -1
    for iteration in sorted(times):
        total += times[iteration] * (iteration - previous)
        previous = iteration
    return total or None


def last_iteration(folder: Path) -> int | None:
    """The last iteration that the log knows of, counted from 1."""
    times = _step_times(folder / METRICS_FILE)
    return max(times) + 1 if times else None


def _step_times(path: Path) -> dict[int, float]:
    """Iteration, from 0 -> seconds per step; cut lines are passed over."""
    times: dict[int, float] = {}
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                times[int(entry["iteration"])] = float(entry["time"])
    return times


def remember_plan(run: Run) -> Record:
    """The record of a run's folder; a new one is written if there is none.

    Raises:
        ValueError: as `read_record`.
    """
    record = read_record(run.folder)
    if record is None:
        record = new_record(run)
        os.makedirs(run.folder, exist_ok=True)
        record.write(run.folder)
    return record
