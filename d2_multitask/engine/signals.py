"""Signals that ask a training to stop: it writes a checkpoint first."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from d2_multitask.data.sampler import STOP_SIGNALS

logger = logging.getLogger(__name__)

# A signal that reaches a process twice, from the terminal and from its parent, is one.
_SAME_SIGNAL_SECONDS = 0.5


class StopOnSignal(HookBase):
    """The first signal lets the step end, writes a checkpoint and exits; a second exits at once.

    Goes after the hooks that change the weights' average or the learning rate, before those that
    evaluate.
    """

    def __init__(self) -> None:
        self._received = 0
        self._when = 0.0

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Listen to `STOP_SIGNALS`; outside of the main thread Python allows none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with _handled_by(self._receive):
            yield

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._received:
            self._received, self._when = number, time.monotonic()
        elif number != self._received or time.monotonic() - self._when > _SAME_SIGNAL_SECONDS:
            os._exit(128 + number)  # no exception: nothing may catch or delay it

    def after_step(self) -> None:
        """Save and exit, if any process has got a signal.

        Raises:
            SystemExit: with 128 + the number of the signal, as shells say it.
        """
        number = _largest_of_all(self._received)
        if not number:
            return
        trainer = self.trainer
        trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
        logger.warning(
            f"{signal.Signals(number).name}: stopped after iteration {trainer.iter}; the "
            f"checkpoint is in {trainer.checkpointer.save_dir}. Go on with --resume."
        )
        # `launch` ends all processes as soon as the first has ended: not before the file is whole.
        _largest_of_all(number)
        raise SystemExit(128 + number)


@contextlib.contextmanager
def passed_to_children() -> Iterator[None]:
    """For the process that only starts those that train: pass `STOP_SIGNALS` on to them."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)

    with _handled_by(pass_on):
        yield


@contextlib.contextmanager
def _handled_by(receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, receive) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _largest_of_all(number: int) -> int:
    """Over all processes, without a GPU: every process must stop after the same step."""
    if comm.get_world_size() == 1:
        return number
    numbers = torch.tensor([number])
    torch.distributed.all_reduce(
        numbers, op=torch.distributed.ReduceOp.MAX, group=comm._get_global_gloo_group()
    )
    return int(numbers)
