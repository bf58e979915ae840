"""Functions that run in other processes while the network predicts the next images."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from detectron2.utils import comm

logger = logging.getLogger(__name__)

# More processes than this are of no use beside one network, and each holds the libraries.
_MOST_WORKERS = 8
# Jobs that wait for a worker, for each worker; a slow one then holds up the network, not memory.
_WAITING_PER_WORKER = 4


def default_num_workers() -> int:
    """The processors that this process may use, divided among the processes of a training."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(_MOST_WORKERS, (available or 1) // comm.get_world_size()))


class BackgroundJobs:
    """Calls a function with many jobs in worker processes and keeps the results in order.

    Workers are started afresh ("spawn"), so that they share neither a GPU nor locks with this
    process, and do not run the main script again. Where they cannot be started, the function is
    called in this process, with a warning.
    """

    def __init__(self, function: Callable[[Any], Any], num_workers: int) -> None:
        """
        Args:
            function: of a module, called as ``function(job)``; job and result are pickled.
            num_workers: number of processes; 0 = call it in this process, below 0 = as many as
                there are processors.
        """
        self._function = function
        # A daemon, such as a data loader's worker, may not have children.
        daemon = multiprocessing.current_process().daemon
        self._num_workers = 0 if daemon else num_workers
        if self._num_workers < 0:
            self._num_workers = default_num_workers()
        self._executor: ProcessPoolExecutor | None = None
        self._waiting: deque[tuple[Any, Future[Any]]] = deque()
        self._results: list[Any] = []

    def submit(self, job: Any) -> None:
        """Start a job, after waiting for earlier ones if too many wait."""
        if self._num_workers:
            try:
                self._waiting.append((job, self._start(job)))
            except (BrokenProcessPool, OSError) as error:
                self._give_up(error)
        if not self._num_workers:
            self._collect(0)
            self._results.append(self._function(job))
        else:
            self._collect(_WAITING_PER_WORKER * self._num_workers)

    def results(self) -> list[Any]:
        """Results of all jobs in the order of `submit`, after which there are none any more."""
        self._collect(0)
        self.close()
        results, self._results = self._results, []
        return results

    def close(self) -> None:
        """End the workers and forget jobs that wait."""
        self._waiting.clear()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _start(self, job: Any) -> Future[Any]:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(
                self._num_workers, mp_context=context, initializer=_initialize_worker
            )
        with _without_main_module():
            return self._executor.submit(self._function, job)

    def _collect(self, most_waiting: int) -> None:
        while len(self._waiting) > most_waiting:
            job, future = self._waiting.popleft()
            try:
                result = future.result()
            except BrokenProcessPool as error:
                self._give_up(error)
                result = self._function(job)
            self._results.append(result)

    def _give_up(self, error: Exception) -> None:
        if self._num_workers:
            logger.warning(
                f"Worker processes of the evaluation cannot be used ({error}): it goes on in this "
                "process, more slowly. TEST.PASCAL_IN_DETAIL.NUM_WORKERS 0 asks for none."
            )
        self._num_workers = 0


def _initialize_worker() -> None:
    import cv2  # in the worker alone

    cv2.setNumThreads(1)


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Hides the main script from processes started meanwhile.

    A spawned process runs the main script again to find what it defines; the functions here come
    from modules, and a script without ``if __name__ == "__main__"`` would train anew.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
