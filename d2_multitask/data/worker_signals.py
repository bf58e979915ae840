"""Which signals stop a training, and data loader workers that leave them to their parent."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

# SIGUSR1 is what Slurm sends before the time is over; Windows has none.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)
)


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
