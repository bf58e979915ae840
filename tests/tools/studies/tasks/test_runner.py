"""The loop over runs, with small scripts in the place of trainings."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from d2_multitask.config import load_config
from d2_multitask.data.folder_lock import FolderLock, is_alive
from studies.tasks.plan import Run, plan_runs, preset_rows
from studies.tasks.record import State, read_record
from studies.tasks.runner import (
    CONSOLE_FILE,
    StudyRunner,
    in_words,
    remaining_seconds,
    train_net_command,
)

# What a training does: counts its calls, then behaves as its row is told to.
GOOD = "(folder / 'results.json').write_text('{}'); (folder / 'model_final.pth').touch()"
FAILS = "sys.exit('Error: the reason')"
DIVERGES = (
    "(folder / 'last_checkpoint').write_text('model_0000001.pth'); "
    "sys.exit('FloatingPointError: Loss became infinite or NaN at iteration 2: loss = nan')"
)
KILLED_ONCE = (
    "first = not (folder / 'last_checkpoint').exists(); "
    "(folder / 'last_checkpoint').write_text('model_0000001.pth'); "
    "(folder / 'model_0000001.pth').touch(); "
    "first and os.kill(os.getpid(), 9); " + GOOD
)
ENDLESS = "(folder / 'pid').write_text(str(os.getpid())); time.sleep(60)"


def study(folder: Path, scripts: dict[str, str], seeds=(1,), **options) -> tuple:
    """A runner for rows with a script each, and what it says."""
    said: list[str] = []

    def command(run: Run, opts: list[str]) -> list[str]:
        start = (
            "import os, pathlib, sys, time; "
            f"folder = pathlib.Path({str(run.folder)!r}); "
            "open(folder / 'calls', 'a').write('x'); "
        )
        return [sys.executable, "-S", "-c", start + scripts[run.row.name], *opts]

    runs = plan_runs(preset_rows("cpu", list(scripts)), seeds, folder)
    options.setdefault("say", said.append)
    return StudyRunner(runs, command, **options), said


def state(folder: Path, row: str, seed: int = 1) -> State:
    return read_record(folder / row / f"seed{seed}").state


def calls(folder: Path, row: str) -> int:
    return len((folder / row / "seed1" / "calls").read_text())


def test_one_that_fails_leaves_the_others_unharmed(tmp_path):
    updates = []
    scripts = {"seg": FAILS, "det": DIVERGES, "pose": GOOD}
    runner, said = study(tmp_path, scripts, after_run=lambda: updates.append(1))
    runner.run_all()
    assert [state(tmp_path, row) for row in scripts] == [
        State.FAILED,
        State.DIVERGED,
        State.FINISHED,
    ]
    assert read_record(tmp_path / "seg" / "seed1").reason == "the reason"
    assert read_record(tmp_path / "pose" / "seed1").parameters > 1_000_000
    assert len(updates) == 3
    assert said[0].startswith("[1/3] Only Seg, seed 1: starts; 0 of 3 finished; time left: known")
    assert said[1].startswith("[1/3] Only Seg, seed 1: failed: the reason; see ")
    assert "0 of 3 finished, 2 failed" in said[4]
    assert "Error: the reason" in (tmp_path / "seg" / "seed1" / CONSOLE_FILE).read_text()


def test_finished_and_diverged_runs_are_not_repeated(tmp_path):
    scripts = {"seg": GOOD, "det": DIVERGES, "pose": FAILS}
    for _ in range(2):
        study(tmp_path, scripts)[0].run_all()
    assert [calls(tmp_path, row) for row in scripts] == [1, 1, 2]


def test_killed_run_goes_on(tmp_path):
    study(tmp_path, {"seg": KILLED_ONCE})[0].run_all()
    assert state(tmp_path, "seg") is State.INTERRUPTED
    runner, said = study(tmp_path, {"seg": KILLED_ONCE})
    runner.run_all()
    assert said[0].startswith("[1/1] Only Seg, seed 1: goes on;")
    assert state(tmp_path, "seg") is State.FINISHED
    # The checkpoint that it went on from has done its duty.
    assert [p.name for p in (tmp_path / "seg" / "seed1").glob("*.pth")] == ["model_final.pth"]


def test_retried_divergence_starts_anew(tmp_path):
    study(tmp_path, {"seg": DIVERGES})[0].run_all()
    for name in ("metrics.json", "results.json"):
        (tmp_path / "seg" / "seed1" / name).write_text("of the first attempt")
    names = ("last_checkpoint", "metrics.json", "results.json")
    stale = f"any((folder / name).exists() for name in {names})"
    good_if_anew = f"{stale} and sys.exit(1); " + GOOD
    study(tmp_path, {"seg": good_if_anew}, retry=True)[0].run_all()
    assert state(tmp_path, "seg") is State.FINISHED


def test_other_settings_are_refused(tmp_path):
    runner, _ = study(tmp_path, {"seg": GOOD, "det": GOOD}, opts=["SOLVER.MAX_ITER", "5"])
    runner.run_all()
    folder = tmp_path / "det" / "seed1"
    cfg = load_config("quick/mcn_det.yaml", ["SOLVER.MAX_ITER", "5", "SEED", "1"])
    (folder / "config.yaml").write_text(cfg.dump())  # as a training does
    changed, _ = study(tmp_path, {"det": GOOD}, opts=["SOLVER.MAX_ITER", "6"])
    with pytest.raises(ValueError, match=r"det.seed1 was trained .*SOLVER.MAX_ITER: 5 -> 6"):
        changed.run_all()


def test_what_another_process_trains_is_left_to_it(tmp_path):
    runner, said = study(tmp_path, {"seg": GOOD, "det": GOOD})
    with FolderLock(tmp_path / "seg" / "seed1"):
        runner.run_all()
    assert state(tmp_path, "seg") is State.PLANNED
    assert state(tmp_path, "det") is State.FINISHED
    assert said[-1] == f"[1/2] Only Seg, seed 1: left to process {os.getpid()}"


def test_what_another_process_has_finished_meanwhile_is_kept(tmp_path):
    late, _ = study(tmp_path, {"seg": FAILS})
    late.check_folders()
    study(tmp_path, {"seg": GOOD})[0].run_all()
    late.run_all()
    assert state(tmp_path, "seg") is State.FINISHED


def test_stopping_ends_the_training_too(tmp_path):
    pid_file = tmp_path / "seg" / "seed1" / "pid"

    def stop(line: str) -> None:
        if pid_file.exists() and pid_file.read_text():
            raise KeyboardInterrupt

    runner, _ = study(tmp_path, {"seg": ENDLESS}, say=stop, progress_seconds=0.05)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        runner.run_all()
    assert time.monotonic() - start < 50
    assert not is_alive(int(pid_file.read_text()))
    record = read_record(tmp_path / "seg" / "seed1")
    assert (record.state, record.reason) == (State.INTERRUPTED, "stopped by the user")
    assert record.seconds > 0
    assert not FolderLock(tmp_path / "seg" / "seed1").holder()


def test_time_left_is_estimated_by_row():
    durations = [("seg", 100.0), ("seg", 200.0), ("det", 600.0)]
    # seg 150, det 600, and 300, the mean of all three, for a row that nothing is known of.
    assert remaining_seconds(durations, ["seg", "det", "pose"]) == pytest.approx(1050.0)
    assert remaining_seconds([], ["seg"]) is None
    assert remaining_seconds(durations, []) == 0


@pytest.mark.parametrize(
    ("seconds", "words"), [(20, "0 min"), (290, "5 min"), (7260, "2 h 1 min"), (3599, "1 h 0 min")]
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def test_standing_counts_what_is_ahead(tmp_path):
    runner, _ = study(tmp_path, {"seg": GOOD, "det": GOOD}, seeds=(1, 2))
    runner.check_folders()
    first = runner._records[runner.runs[0]]
    first.state, first.seconds = State.FINISHED, 600.0
    assert runner.standing(runner.runs[1]) == "1 of 4 finished; about 30 min left"


def test_trainings_are_those_of_train_net(tmp_path):
    (run,) = plan_runs(preset_rows("cpu", ["det"]), [3], tmp_path)
    words = train_net_command("python", Path("tools/train_net.py"), 2)(run, ["A", "1"])
    assert words[:2] == ["python", "-u"]
    assert words[words.index("tools/train_net.py") :] == [
        *("tools/train_net.py", "--config-file", "quick/mcn_det.yaml", "--resume"),
        *("--num-gpus", "2", "--dist-url", "auto", "A", "1"),
    ]
