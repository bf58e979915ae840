"""The command line as a user runs it, in a process of its own."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from d2_multitask.data.folder_lock import FolderLock

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "datasets" / "prepare_synthetic_people.py"


def start(folder, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder, *arguments, **environment):
    process = start(folder, *arguments, **environment)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


TINY = ("--num-train", "3", "--num-val", "2", "--image-size", "64", "72")


@pytest.fixture
def run_here(monkeypatch, tmp_path):
    """Runs the script in this process, which saves seconds; gives its error message or None."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)

    def run_main(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            return stop.code
        return None

    yield run_main
    signal.signal(signal.SIGTERM, handler)


def test_draws_both_splits_and_leaves_them_alone_afterwards(tmp_path):
    code, output, errors = run(tmp_path, *TINY, "--workers", "2", DETECTRON2_DATASETS="data")
    assert code == 0, errors
    assert "train\n3/3 [" in output and "image/s] train" in output
    folder = tmp_path / "data" / "synthetic_people"
    train = json.loads((folder / "annotations/instances_train.json").read_text())
    assert len(train["images"]) == 3
    assert len(list(folder.glob("val/sem_seg/*.png"))) == 2

    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    code, output, errors = run(tmp_path, "--root", "data", *TINY)
    assert code == 0, errors
    assert output.count("is complete") == 2
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def test_asks_before_it_replaces(tmp_path, run_here):
    assert run_here("--root", ".", *TINY, "--workers", "1") is None
    json_file = tmp_path / "synthetic_people/annotations/instances_val.json"
    before = json_file.read_text()
    error = run_here("--root", ".", *TINY, "--workers", "1", "--seed", "8")
    assert "seed: found 0, expected 8" in error and "--overwrite" in error
    assert json_file.read_text() == before
    assert run_here("--root", ".", *TINY, "--workers", "1", "--seed", "8", "--overwrite") is None
    assert json.loads(json_file.read_text())["info"]["arguments"]["seed"] == 8


def test_a_bad_size_is_told_without_a_traceback(tmp_path, run_here):
    error = run_here("--root", ".", "--image-size", "90", "20")
    assert error.startswith("error: ") and "short_side" in error and "(90, 20)" in error
    assert list(tmp_path.iterdir()) == []


def test_one_script_at_a_time_in_a_folder(tmp_path, run_here):
    with FolderLock(tmp_path / "synthetic_people"):
        error = run_here("--root", ".", *TINY, "--workers", "1")
    assert f"process {os.getpid()} writes into the same folder" in error
    assert not list(tmp_path.rglob("*.png"))
    assert run_here("--root", ".", *TINY, "--workers", "1") is None


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupt_and_repeat(tmp_path, number):
    arguments = ("--root", ".", "--num-train", "100000", *TINY[2:], "--workers", "2")
    process = start(tmp_path, *arguments)
    images = tmp_path / "synthetic_people/train/images"
    end = time.monotonic() + 100
    while time.monotonic() < end and not (images.is_dir() and len(list(images.iterdir())) > 5):
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    if number != signal.SIGKILL:  # then workers may find the pipe to their parent broken
        assert "Traceback" not in errors
    time.sleep(2)
    assert not any(_alive(child) for child in children)
    # No annotations; a killed process also leaves its lock, which the next run takes over.
    left = {file.name for file in tmp_path.rglob("*.json")}
    assert left <= ({"lock.json"} if number == signal.SIGKILL else set())

    code, _, errors = run(tmp_path, "--root", ".", *TINY)
    assert code == 0, errors
    assert len(list(images.iterdir())) == 3
