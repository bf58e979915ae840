"""Seconds of functions that run in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Clock = Callable[[], float]

# "cpu" counts the seconds that this process computed, in all its threads. On a machine that others
# use too it still tells what a call costs; with one thread, since waiting threads compute as well.
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Timing:
    """Seconds of each counted run of one function."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the runs, seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest run, seconds."""
        return min(self.seconds), max(self.seconds)


def time_interleaved(
    functions: Mapping[str, Callable[[], Any]],
    runs: int = 10,
    warmup: int = 2,
    errors: dict[str, str] | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Time functions in turn, A B C A B C ..., so that a drifting machine drifts for all of them.

    Args:
        functions: name -> what to run.
        runs: counted runs of each.
        warmup: runs of each before that, not counted.
        errors: gets name -> message of a function that raises, which is then left out; without it
            the error is raised.
        clock: one of :data:`CLOCKS`.

    Returns:
        name -> timing.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + runs):
        for name, function in functions.items():
            if name not in seconds:
                continue
            try:
                duration = time_once(function, clock)
            except Exception as error:
                if errors is None:
                    raise
                errors[name] = describe_error(error)
                del seconds[name]
                continue
            if turn >= warmup:
                seconds[name].append(duration)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def time_once(function: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
    """Seconds of one run, with the work that it leaves to a GPU."""
    start = clock()
    function()
    synchronize()
    return clock() - start


def synchronize() -> None:
    """Wait for the GPU: its work is asynchronous, and without this only its launch is timed."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def paired_ratio(numerator: Timing, denominator: Timing) -> float:
    """Median of the ratios turn by turn: what slows a whole turn down does not change it.

    Args:
        numerator: of :func:`time_interleaved`.
        denominator: of the same call.
    """
    pairs = zip(numerator.seconds, denominator.seconds, strict=True)
    return statistics.median(above / below for above, below in pairs)


def describe_error(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
