"""A lock file for a folder that one process at a time may write into.

The file names the processes that hold it, and is touched every minute. It is stale, and taken over,
when none of them lives any more, or, on another computer, when it was not touched for ten minutes:
after a crash or a preemption nothing has to be deleted. A training that has outlived the process
that started it still holds its lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2_multitask.data.whole_files import write_text

logger = logging.getLogger(__name__)

LOCK_FILE = "lock.json"
# Seconds: a file server's or a computer's clock may be some minutes off.
_TOUCHED_EVERY, _STALE_AFTER = 60.0, 600.0


class LockHeldError(RuntimeError):
    """Another process holds the lock; the message says which."""


class FolderLock:
    """The lock of one folder; a context manager.

    Raises:
        LockHeldError: on entering, if a process holds it that lives, or may live elsewhere.
    """

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: made if it is not there.
        """
        self.path = folder / LOCK_FILE
        self._released = threading.Event()

    def __enter__(self) -> FolderLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self.path.with_suffix(".guard")):
            if self._is_lent_to_us():
                return self  # it stays with the process that has let this one hold it too
            holder = self.holder()
            if holder:
                raise LockHeldError(holder)
            host, _ = self._read()
            if host not in ("", socket.gethostname()):
                logger.warning(
                    "%s: taken over from the computer %s, which has not touched it for %d minutes",
                    *(self.path, host, self._age() // 60),
                )
            self._write([os.getpid()])
        self._released.clear()
        threading.Thread(target=self._touch, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._released.set()
        if self._is_ours():
            self.path.unlink(missing_ok=True)

    def add_process(self, pid: int) -> None:
        """Let a child hold the lock too: it may enter, and may outlive this process."""
        self._write([os.getpid(), pid])

    def _is_lent_to_us(self) -> bool:
        """Whether `add_process` named this process, or the one that spawned it for its GPU."""
        host, processes = self._read()
        ours = (os.getpid(), os.getppid())
        return host == socket.gethostname() and any(
            process["pid"] in ours and is_alive(**process) for process in processes[1:]
        )

    def holder(self) -> str:
        """Who holds the lock, for people; empty if nobody does."""
        host, processes = self._read()
        if not processes:
            return ""
        if host != socket.gethostname():
            if self._age() > _STALE_AFTER:
                return ""
            return (
                f"process {processes[0]['pid']} on the computer {host} (if it is no longer "
                f"running, wait {_STALE_AFTER / 60:.0f} minutes, or delete {self.path})"
            )
        alive = [process["pid"] for process in processes if is_alive(**process)]
        return f"process {alive[0]}" if alive else ""

    def _read(self) -> tuple[str, list[dict[str, Any]]]:
        """Host and processes; no processes without a lock."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return content["host"], content["processes"]
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return "", []  # no lock; or not one of ours, which is written in one step

    def _age(self) -> float:
        """Seconds since the file was touched; 0 if it is no longer there."""
        try:
            return time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _is_ours(self) -> bool:
        """Whether it is not lent, and no other computer took it over while this one slept."""
        host, processes = self._read()
        first = [process["pid"] for process in processes[:1]]
        return host == socket.gethostname() and first == [os.getpid()]

    def _touch(self) -> None:
        while not self._released.wait(_TOUCHED_EVERY):
            with contextlib.suppress(OSError):  # a file server that does not answer for a while
                if self._is_ours():
                    os.utime(self.path)

    def _write(self, pids: list[int]) -> None:
        processes = [{"pid": pid, "started": start_time(pid)} for pid in pids]
        content = {"host": socket.gethostname(), "processes": processes}
        write_text(self.path, json.dumps(content) + "\n")


def is_alive(pid: int, started: str | None = None) -> bool:
    """Whether a process lives, and is the one meant: numbers of processes are used again.

    Args:
        pid: its number.
        started: what `start_time` said when it was noted down.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    state, now = _process_status(pid)
    if state == "Z":  # ended, but nobody has asked how
        return False
    return started is None or now is None or started == now


def start_time(pid: int) -> str | None:
    """When a process was started, in ticks since the computer was; ``None`` where unknown."""
    return _process_status(pid)[1]


def _process_status(pid: int) -> tuple[str | None, str | None]:
    """(state, start time) of Linux' /proc; (None, None) elsewhere."""
    with contextlib.suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text()
        # "pid (name) state ...": the name may hold spaces and parentheses.
        fields = text[text.rindex(")") + 1 :].split()
        return fields[0], fields[19]
    return None, None


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Between reading a lock and writing it, no other process may do the same."""
    fcntl: Any
    try:
        import fcntl
    except ImportError:  # not POSIX: two processes that start in the same millisecond may collide
        yield
        return
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who waited for a file that its holder has removed since holds nothing.
            if not _is_open_as(file.fileno(), path):
                continue
            try:
                yield
            finally:
                path.unlink()
            return


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
