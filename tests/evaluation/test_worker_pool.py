from __future__ import annotations

import math
import os
from concurrent.futures.process import BrokenProcessPool

import pytest

from d2_multitask.evaluation.worker_pool import BackgroundJobs, default_num_workers


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_results_come_in_order(num_workers):
    jobs = BackgroundJobs(math.sqrt, num_workers)
    for turn in range(2):
        for number in range(30):
            jobs.submit(number + turn)
        assert jobs.results() == [math.sqrt(number + turn) for number in range(30)]
    assert jobs.results() == []


@pytest.mark.slow
def test_errors_of_a_job_arrive():
    jobs = BackgroundJobs(math.sqrt, 1)
    jobs.submit(-1)
    with pytest.raises(ValueError, match="math domain error|nonnegative"):
        jobs.results()
    jobs.close()


class _Broken:
    """An executor whose processes cannot be started."""

    def __init__(self, *args, **kwargs):
        pass

    def submit(self, function, job):
        raise BrokenProcessPool("no processes here")

    def shutdown(self, **kwargs):
        pass


def test_without_processes_it_goes_on_here(monkeypatch, caplog):
    monkeypatch.setattr("d2_multitask.evaluation.worker_pool.ProcessPoolExecutor", _Broken)
    jobs = BackgroundJobs(math.sqrt, 3)
    for number in (1, 4, 9):
        jobs.submit(number)
    assert jobs.results() == [1, 2, 3]
    assert caplog.text.count("no processes here") == 1


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(caplog):
    """`os._exit` ends the process that calls it: first a worker; the job is then done here."""
    jobs = BackgroundJobs(_exit_in_worker, 1)
    jobs.submit(os.getpid())
    assert jobs.results() == ["done here"]
    assert "NUM_WORKERS" in caplog.text


def _exit_in_worker(parent: int) -> str:
    if os.getpid() != parent:
        os._exit(1)
    return "done here"


def test_number_of_workers():
    assert 1 <= default_num_workers() <= 8
