"""Trains the runs of a study, one after the other, each in a process of its own.

A crash, a NaN or a kill ends one run and leaves the others unharmed; several of these loops may
work on the same folder at the same time.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from d2_multitask.config import load_config
from d2_multitask.data.folder_lock import FolderLock, LockHeldError
from studies.tasks.plan import Run, changed_settings, count_parameters
from studies.tasks.record import (
    Action,
    Record,
    State,
    decide,
    forget_checkpoints,
    forget_training,
    has_checkpoint,
    last_iteration,
    outcome,
    remember_plan,
    training_seconds,
)

CONSOLE_FILE = "console.txt"
# How long a process that is asked to end may take for it.
GRACE_SECONDS = 20.0

# (run, its config overrides) -> the command that trains it; resumes if there is a checkpoint
TrainCommand = Callable[[Run, list[str]], list[str]]


class StudyRunner:
    """Trains what a study lacks; see :meth:`run_all`."""

    def __init__(
        self,
        runs: Sequence[Run],
        command: TrainCommand,
        *,
        opts: Sequence[str] = (),
        retry: bool = False,
        say: Callable[[str], None],
        after_run: Callable[[], None] = lambda: None,
        progress_seconds: float = 60.0,
    ) -> None:
        """
        Args:
            runs: in the order in which they are trained.
            command: makes the command line of a run.
            opts: config overrides of all runs.
            retry: repeat diverged runs from the start.
            say: takes a line of progress.
            after_run: called after each training, to bring the table up to date.
            progress_seconds: between two lines while a network trains.
        """
        self.runs = list(runs)
        self.opts = list(opts)
        self.progress_seconds = progress_seconds
        self._command, self._retry, self._say, self._after_run = command, retry, say, after_run
        self._records: dict[Run, Record] = {}

    def check_folders(self) -> None:
        """Note the plan down, and refuse to mix networks that were trained differently.

        Raises:
            ValueError: a folder holds a run with other settings, or a damaged record.
        """
        for run in self.runs:
            record = self._records[run] = remember_plan(run)
            begun = record.state in (State.FINISHED, State.DIVERGED) or has_checkpoint(run.folder)
            changes = changed_settings(run, self.opts) if begun else []
            if changes:
                raise ValueError(
                    f"{run.folder} was trained with other settings than asked for now "
                    f"({'; '.join(changes[:5])}{'; ...' if len(changes) > 5 else ''}). A table "
                    "compares runs of the same settings: choose another --output, or delete the "
                    "folder"
                )

    def run_all(self) -> None:
        """Train every run that is neither finished nor in another process's hands.

        Those that another process held at first are looked at once more at the end: it may have
        been killed.
        """
        self.check_folders()
        held = [run for run in self.runs if not self._run_unless_held(run)]
        for run in held:
            self._run_unless_held(run, last_chance=True)

    def _run_unless_held(self, run: Run, last_chance: bool = False) -> bool:
        """Train a run if it needs it; ``False`` if another process is at it."""
        try:
            with FolderLock(run.folder) as lock:
                # Another process may have finished it in the meantime.
                record = self._records[run] = remember_plan(run)
                action = decide(record, has_checkpoint(run.folder), self._retry)
                if action is not Action.KEEP:
                    self._train(run, record, action, lock)
            return True
        except LockHeldError as error:
            if last_chance:
                self._say(f"{self._place(run)}: left to {error}")
            return False

    def _train(self, run: Run, record: Record, action: Action, lock: FolderLock) -> None:
        iteration = last_iteration(run.folder) if action is Action.RESUME else None
        start = "goes on" if action is Action.RESUME else "starts"
        at = f" (it had come to iteration {iteration})" if iteration else ""
        self._say(f"{self._place(run)}: {start}{at}; {self.standing(run)}")
        if action is Action.START:
            forget_training(run.folder)
        record.state, record.reason = State.RUNNING, ""
        record.write(run.folder)
        began = time.monotonic()
        try:
            record.state, record.reason = self._run_process(run, lock)
        except BaseException:  # Ctrl-C, SIGTERM
            record.state, record.reason = State.INTERRUPTED, "stopped by the user"
            raise
        finally:
            record.seconds += time.monotonic() - began
            if record.state is State.FINISHED:
                self._complete(run, record)
            record.write(run.folder)
        self._say(f"{self._place(run)}: {self._ending(run, record)}")
        self._after_run()

    def _complete(self, run: Run, record: Record) -> None:
        cfg = load_config(run.row.config_file, [*self.opts, *run.own_opts])
        record.parameters = count_parameters(cfg)
        # Of a finished run the last weights are of use; the others would fill the disk.
        forget_checkpoints(run.folder, keep=("model_final.pth",))

    def _run_process(self, run: Run, lock: FolderLock) -> tuple[State, str]:
        command = self._command(run, [*self.opts, *run.own_opts])
        path = run.folder / CONSOLE_FILE
        with path.open("ab") as console:
            earlier = console.tell()
            process = subprocess.Popen(command, stdout=console, stderr=subprocess.STDOUT)
            try:
                lock.add_process(process.pid)
                self._wait(run, process)
            except BaseException:
                _end(process)
                raise
        output = path.read_bytes()[earlier:].decode("utf-8", errors="replace")
        return outcome(process.returncode, output, run.folder)

    def _wait(self, run: Run, process: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                process.wait(self.progress_seconds)
                return
            except subprocess.TimeoutExpired:
                iteration = last_iteration(run.folder)
                at = f"iteration {iteration}" if iteration else "no iteration yet"
                self._say(f"{self._place(run)}: {at}")

    def _place(self, run: Run) -> str:
        return f"[{self.runs.index(run) + 1}/{len(self.runs)}] {run.name}"

    def _ending(self, run: Run, record: Record) -> str:
        if record.state is not State.FINISHED:
            return f"{record.state.value}: {record.reason}; see {run.folder / CONSOLE_FILE}"
        seconds = training_seconds(run.folder)
        training = f", {seconds / 60:.1f} of them training" if seconds else ""
        return f"finished after {record.seconds / 60:.1f} minutes{training}"

    def standing(self, current: Run) -> str:
        """How many runs are finished, and how long the rest will take; for people."""
        records = self._records
        finished = [run for run in self.runs if records[run].state is State.FINISHED]
        bad = sum(records[run].state in (State.FAILED, State.DIVERGED) for run in self.runs)
        ahead = [run for run in self.runs[self.runs.index(current) :] if run not in finished]
        durations = [(run.row.name, records[run].seconds) for run in finished]
        left = remaining_seconds(durations, [run.row.name for run in ahead])
        eta = "time left: known after the first" if left is None else f"about {in_words(left)} left"
        failed = f", {bad} failed" if bad else ""
        return f"{len(finished)} of {len(self.runs)} finished{failed}; {eta}"


def remaining_seconds(
    durations: Sequence[tuple[str, float]], rows_ahead: Sequence[str]
) -> float | None:
    """An estimate from finished runs: those of the same row if there are some, else all.

    Args:
        durations: row and seconds of each finished run.
        rows_ahead: the row of each run that is still to come.

    Returns:
        Seconds; ``None`` if nothing is finished.
    """
    if not durations:
        return None
    by_row: dict[str, list[float]] = {}
    for row, seconds in durations:
        by_row.setdefault(row, []).append(seconds)
    everything = _mean([seconds for _, seconds in durations])
    means: Mapping[str, float] = {row: _mean(values) for row, values in by_row.items()}
    return sum(means.get(row, everything) for row in rows_ahead)


def in_words(seconds: float) -> str:
    """``2 h 5 min``, ``5 min``."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a child in any case, politely at first."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def train_net_command(python: str, script: Path, num_gpus: int = 1) -> TrainCommand:
    """Trainings by ``tools/train_net.py``, resumed where there is a checkpoint.

    Args:
        python: the interpreter.
        script: the path of ``train_net.py``.
        num_gpus: GPUs of each training.
    """
    # Detectron2 uses what PyTorch calls deprecated.
    flags = ["-u", "-W", "ignore::FutureWarning:torch.jit._script"]
    gpus = [] if num_gpus == 1 else ["--num-gpus", str(num_gpus), "--dist-url", "auto"]

    def command(run: Run, opts: list[str]) -> list[str]:
        config = ["--config-file", run.row.config_file]
        return [python, *flags, str(script), *config, "--resume", *gpus, *opts]

    return command
