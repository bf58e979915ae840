"""Several processes on one machine: drawing images, and who listens to signals."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from torch.utils.data import DataLoader

T = TypeVar("T")

# SIGUSR1 is what Slurm sends before the time is over; Windows has none.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)
)


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


def leave_signals_to_parent(loader: Any) -> None:
    """Let a loader's workers ignore `STOP_SIGNALS`, which often go to all processes at once.

    The main process decides what becomes of the step; workers end with it, as PyTorch's watch it.

    Args:
        loader: PyTorch's, or one of Detectron2's around it; others stay as they are.
    """
    while not isinstance(loader, DataLoader):
        if not hasattr(loader, "dataset"):
            return
        loader = loader.dataset
    loader.worker_init_fn = partial(_ignore_signals, loader.worker_init_fn)


def _ignore_signals(then: Callable[[int], None] | None, worker_id: int) -> None:
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_parent_says, daemon=True).start()
    if then is not None:
        then(worker_id)


def _end_when_parent_says() -> None:
    """SIGTERM of the parent, which waits for the end after it, counts; that of others does not."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
