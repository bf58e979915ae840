"""Worker processes for functions that run beside the network."""

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

import cv2
from detectron2.utils import comm

logger = logging.getLogger(__name__)

# More processes than this are not faster beside one network, and each loads the libraries.
_MAX_WORKERS = 8
# Jobs that wait per worker. With more, slow workers would fill the memory.
_WAITING_PER_WORKER = 4


def default_num_workers() -> int:
    """The processors that this process may use, divided among the processes of a training."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(_MAX_WORKERS, (available or 1) // comm.get_world_size()))


class BackgroundJobs:
    """Calls a function with many jobs in worker processes and keeps the results in order.

    Workers are spawned, so they share neither a GPU nor locks with this process. Where they cannot
    be started, the function is called in this process, with a warning.
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
                if self._executor is None:
                    context = multiprocessing.get_context("spawn")
                    self._executor = ProcessPoolExecutor(
                        self._num_workers, context, initializer=cv2.setNumThreads, initargs=(1,)
                    )
                with _without_main_module():
                    self._waiting.append((job, self._executor.submit(self._function, job)))
            except (BrokenProcessPool, OSError) as error:
                self._give_up(error)
        if not self._num_workers:
            self._collect(0)
            self._results.append(self._function(job))
        else:
            self._collect(_WAITING_PER_WORKER * self._num_workers)

    def results(self) -> list[Any]:
        """Results of all jobs in the order of `submit`; ends the workers and starts anew."""
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

    def _collect(self, max_waiting: int) -> None:
        while len(self._waiting) > max_waiting:
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
                f"Worker processes of the evaluation cannot be used ({error}): it continues in "
                "this process, more slowly. TEST.PASCAL_IN_DETAIL.NUM_WORKERS 0 asks for none."
            )
        self._num_workers = 0


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Hides the main script from processes that are spawned meanwhile.

    They would import it again to find what it defines. The functions here come from modules, and a
    script without ``if __name__ == "__main__"`` would start another training.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
