from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from d2_multitask.data import folder_lock
from d2_multitask.data.folder_lock import (
    LOCK_FILE,
    FolderLock,
    LockHeldError,
    is_alive,
    start_time,
)


@pytest.fixture
def other():
    """A living process that has nothing to do with us."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def write_lock(folder, *processes, host=None):
    content = {"host": host or socket.gethostname(), "processes": list(processes)}
    (folder / LOCK_FILE).write_text(json.dumps(content))


def test_held_while_inside(tmp_path):
    folder = tmp_path / "new" / "run"
    with FolderLock(folder):
        with (
            pytest.raises(LockHeldError, match=f"process {os.getpid()}"),
            FolderLock(folder),
        ):
            pass
        assert FolderLock(folder).holder()  # the failed attempt has not removed it
    assert not FolderLock(folder).holder()
    with FolderLock(folder):
        pass


def test_released_after_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="oops"), FolderLock(tmp_path):
        raise RuntimeError("oops")
    assert not FolderLock(tmp_path).holder()


def test_another_living_process_holds_it(tmp_path, other):
    write_lock(tmp_path, {"pid": other.pid, "started": start_time(other.pid)})
    with pytest.raises(LockHeldError, match=f"process {other.pid}"), FolderLock(tmp_path):
        pass


def test_taken_over_from_a_dead_process(tmp_path, other):
    write_lock(tmp_path, {"pid": other.pid, "started": start_time(other.pid)})
    other.kill()
    other.wait()
    with FolderLock(tmp_path) as lock:
        assert lock.holder() == f"process {os.getpid()}"


def test_child_that_outlives_its_parent_still_holds_it(tmp_path, other):
    with FolderLock(tmp_path) as lock:
        lock.add_process(other.pid)
        content = json.loads(lock.path.read_text())
    dead = {"pid": content["processes"][0]["pid"], "started": "1"}  # the parent, long gone
    write_lock(tmp_path, dead, content["processes"][1])
    assert FolderLock(tmp_path).holder() == f"process {other.pid}"


def test_child_to_which_it_was_lent_enters_and_leaves_it_in_place(tmp_path):
    enter = (
        "import sys; from pathlib import Path; input();"
        "from d2_multitask.data.folder_lock import FolderLock\n"
        "with FolderLock(Path(sys.argv[1])): print('inside')"
    )
    for lend in (True, False):
        with FolderLock(tmp_path) as lock:
            child = subprocess.Popen(
                [sys.executable, "-c", enter, str(tmp_path)],
                **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
                text=True,
            )
            if lend:
                lock.add_process(child.pid)
            out, error = child.communicate("\n")
            assert (out == "inside\n") == lend, error
            assert lock.holder() == f"process {os.getpid()}"


@pytest.mark.skipif(start_time(os.getpid()) is None, reason="no /proc on this system")
def test_number_of_a_dead_process_used_again(tmp_path):
    assert is_alive(os.getpid(), start_time(os.getpid()))
    assert not is_alive(os.getpid(), "1")


@pytest.mark.skipif(start_time(os.getpid()) is None, reason="no /proc on this system")
def test_process_that_nobody_has_waited_for_is_dead():
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    process.stdout.read()  # closed when it ends
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(process.pid)
    process.wait()
    process.stdout.close()


def test_another_computer_is_believed(tmp_path):
    write_lock(tmp_path, {"pid": 1, "started": None}, host="elsewhere")
    with (
        pytest.raises(LockHeldError, match=r"process 1 on the computer elsewhere \(if .* delete"),
        FolderLock(tmp_path),
    ):
        pass


def test_another_computer_that_does_not_touch_it_has_lost_it(tmp_path, caplog):
    write_lock(tmp_path, {"pid": 1, "started": None}, host="elsewhere")
    path, now = tmp_path / LOCK_FILE, time.time()
    os.utime(path, (now - 540, now - 540))
    with pytest.raises(LockHeldError, match="elsewhere"), FolderLock(tmp_path):
        pass
    os.utime(path, (now - 720, now - 720))
    with caplog.at_level("WARNING"), FolderLock(tmp_path) as lock:
        assert lock.holder() == f"process {os.getpid()}"
    assert "taken over from the computer elsewhere" in caplog.text
    assert "for 12 minutes" in caplog.text


def test_touched_while_held_and_left_to_who_took_it_over(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "_TOUCHED_EVERY", 0.01)
    with FolderLock(tmp_path) as lock:
        os.utime(lock.path, (0, 0))
        ends = time.time() + 30
        while lock.path.stat().st_mtime == 0:
            assert time.time() < ends
            time.sleep(0.01)
        write_lock(tmp_path, {"pid": 1, "started": None}, host="elsewhere")
        os.utime(lock.path, (0, 0))
        time.sleep(0.1)
        assert lock.path.stat().st_mtime == 0
    assert json.loads(lock.path.read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_lock_holds_nothing(tmp_path, text):
    (tmp_path / LOCK_FILE).write_text(text)
    assert not FolderLock(tmp_path).holder()


def test_one_of_many_gets_it_and_nothing_is_left(tmp_path):
    held, most = [], []

    def hold(_):
        for _ in range(40):
            try:
                with FolderLock(tmp_path):
                    held.append(1)
                    most.append(len(held))
                    held.pop()
            except LockHeldError:
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(8)))
    assert set(most) == {1}
    assert not list(tmp_path.iterdir())
