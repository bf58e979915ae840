"""Calls in several processes of one machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def map_unordered(draw: Callable[[int], T], count: int, num_workers: int) -> Iterator[T]:
    """``draw(0)`` ... ``draw(count - 1)``, in this process or in several, in any order."""
    if num_workers == 1:
        yield from map(draw, range(count))
        return
    # Forked processes need not import everything again; it is safe on Linux only.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Pool(num_workers, _start_worker, (os.getpid(),)) as pool:
        yield from pool.imap_unordered(draw, range(count), chunksize=4)


def _start_worker(parent: int) -> None:
    """Leave interrupts to the parent, and end with it, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
