from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from studies.tasks.plan import plan_runs, preset_rows
from studies.tasks.record import (
    Action,
    State,
    decide,
    forget_checkpoints,
    has_checkpoint,
    last_iteration,
    new_record,
    outcome,
    read_record,
    remember_plan,
    training_seconds,
)


@pytest.fixture
def run(tmp_path):
    (run,) = plan_runs(preset_rows("cpu", ["seg_det"]), [2], tmp_path)
    return run


def record_in(state: State, run):
    record = new_record(run)
    record.state = state
    return record


def test_a_record_is_read_as_it_was_written(run):
    record = remember_plan(run)
    assert (record.state, record.label, record.seed) == (State.PLANNED, "Seg+Det", 2)
    record.state, record.reason, record.seconds = State.FAILED, "a reason", 3.5
    record.write(run.folder)
    assert read_record(run.folder) == record
    assert remember_plan(run) == record  # kept, not written anew


def test_no_record(tmp_path):
    assert read_record(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"state": "DONE"}', '{"state": "FAILED"}'])
def test_damaged_record(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json: found .* delete the file"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("state", "checkpoint", "action"),
    [
        (State.PLANNED, False, Action.START),
        (State.RUNNING, True, Action.RESUME),  # killed: nobody holds its lock
        (State.RUNNING, False, Action.START),
        (State.INTERRUPTED, True, Action.RESUME),
        (State.FAILED, True, Action.RESUME),
        (State.FAILED, False, Action.START),
        (State.DIVERGED, True, Action.KEEP),
        (State.FINISHED, True, Action.KEEP),
        (State.FINISHED, False, Action.KEEP),
    ],
)
def test_what_to_do_with_a_run(run, state, checkpoint, action):
    assert decide(record_in(state, run), checkpoint) is action


def test_retried_divergence_starts_anew(run):
    assert decide(record_in(State.DIVERGED, run), True, retry=True) is Action.START
    assert decide(record_in(State.FINISHED, run), True, retry=True) is Action.KEEP
    assert decide(None, False) is Action.START


def test_outcome_of_a_good_run(tmp_path):
    assert outcome(0, "", tmp_path)[0] is State.FAILED
    assert "DATASETS.TEST" in outcome(0, "", tmp_path)[1]
    (tmp_path / "results.json").write_text("{}")
    assert outcome(0, "", tmp_path) == (State.FINISHED, "")


def test_outcome_of_a_nan(tmp_path):
    output = (
        "Traceback ...\nFloatingPointError: Loss became infinite or NaN at iteration 7: "
        "loss_seg = nan. All losses: loss_seg = nan. Images of this batch:\n  a.png\nOften ...\n"
    )
    expected = "Loss became infinite or NaN at iteration 7: loss_seg = nan"
    assert outcome(1, output, tmp_path) == (State.DIVERGED, expected)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("loading\nError: no such file\nbye\n", "no such file"),
        ("Traceback\nKeyError: 'x'\n\n", "KeyError: 'x'"),
        ("", "exit code 3"),
    ],
)
def test_outcome_of_a_failure(tmp_path, output, reason):
    assert outcome(3, output, tmp_path) == (State.FAILED, reason)


@pytest.mark.parametrize(
    ("code", "words"), [(-15, "SIGTERM"), (-9, "SIGKILL; too little memory?"), (-999, "999")]
)
def test_outcome_of_a_kill(tmp_path, code, words):
    assert outcome(code, "", tmp_path) == (State.INTERRUPTED, f"ended by the signal {words}")


def write_metrics(folder: Path, *entries: dict | str) -> None:
    lines = [e if isinstance(e, str) else json.dumps(e) for e in entries]
    (folder / "metrics.json").write_text("\n".join(lines))


def test_training_time_is_steps_times_their_time(tmp_path):
    # 20 steps of 0.5 s, 20 of 0.25 s: 15 s.
    write_metrics(tmp_path, {"iteration": 19, "time": 0.5}, {"iteration": 39, "time": 0.25})
    assert training_seconds(tmp_path) == pytest.approx(15.0)
    assert last_iteration(tmp_path) == 40


def test_training_time_counts_repeated_iterations_once(tmp_path):
    first = [{"iteration": 9, "time": 1.0}, {"iteration": 19, "time": 1.0}]
    # Killed, and resumed from iteration 10; the second sitting was slower: 10 + 20 s.
    again = [{"iteration": 19, "time": 2.0}, {"iteration": 19, "bbox/AP": 3.0}]
    write_metrics(tmp_path, *first, '{"iteration": 2', *again)
    assert training_seconds(tmp_path) == pytest.approx(30.0)


def test_training_time_unknown(tmp_path):
    assert training_seconds(tmp_path) is None
    assert last_iteration(tmp_path) is None


def test_only_the_last_weights_of_a_finished_run_are_kept(tmp_path):
    names = ("model_0000099.pth", "model_final.pth", "last_checkpoint", "results.json")
    for name in names:
        (tmp_path / name).touch()
    forget_checkpoints(tmp_path, keep=("model_final.pth",))
    assert {p.name for p in tmp_path.iterdir()} == {"model_final.pth", "results.json"}


def test_what_to_resume_from_is_found_as_a_training_finds_it(tmp_path):
    assert not has_checkpoint(tmp_path)
    model = {"weight": torch.zeros(1)}
    torch.save({"model": model}, tmp_path / "pretrained.pth")  # not of a training
    assert not has_checkpoint(tmp_path)
    torch.save({"model": model, "iteration": 1}, tmp_path / "model_0000001.pth")
    assert has_checkpoint(tmp_path)  # there is no note
    for note in ("", "model_0000001.pth", "model_0000003.pth"):
        (tmp_path / "last_checkpoint").write_text(note)
        assert has_checkpoint(tmp_path), note
    (tmp_path / "model_0000001.pth").write_bytes(b"broken")
    (tmp_path / "last_checkpoint").write_text("")
    assert not has_checkpoint(tmp_path)
