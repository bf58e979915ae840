"""The cost report: what each row costs, measured in turn in one run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tabulate import tabulate

from benchmark.counting import count_multiply_adds, peak_memory
from benchmark.networks import Builder, Contestant, Setting
from benchmark.parts import PartTimer, watch_network
from benchmark.timing import Clock, describe_error, time_interleaved


@dataclass
class Cost:
    """One row. Times in seconds, ``nan`` where something failed.

    Attributes:
        error: why the row could not be measured; empty if it could.
        num_parameters: of all its networks.
        multiply_adds: of convolutions and matrix products, one image.
        latency: median of one image.
        spread: fastest and slowest.
        throughput: images per second, in batches.
        peak_memory: bytes that one image takes besides the weights.
        parts: part -> median seconds, one image.
    """

    error: str = ""
    num_parameters: int = 0
    multiply_adds: float = math.nan
    latency: float = math.nan
    spread: tuple[float, float] = (math.nan, math.nan)
    throughput: float = math.nan
    peak_memory: int = 0
    parts: dict[str, float] = field(default_factory=dict)


def measure_costs(
    builders: Mapping[str, Builder],
    setting: Setting,
    *,
    runs: int = 10,
    warmup: int = 2,
    batch_size: int = 8,
    batch_runs: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[str, Cost]:
    """Build and measure all rows; a row that fails has an error; the others are measured.

    Args:
        builders: name of the row -> what builds it.
        setting: how the networks are run.
        runs: counted runs of one image.
        warmup: runs before that.
        batch_size: images of a batch, for the throughput.
        batch_runs: counted runs of a batch; 0 leaves the throughput out.
        clock: see `benchmark.timing.CLOCKS`.
    """
    costs = {name: Cost() for name in builders}
    contestants = build_all(builders, errors := {})
    for name, contestant in contestants.items():
        costs[name].num_parameters = contestant.num_parameters
    one = {name: c.prepare(setting.images(1)) for name, c in contestants.items()}
    timers = {name: PartTimer(clock) for name in contestants}
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for name, contestant in contestants.items():
        for network in contestant.networks:
            watch_network(timers[name], network)

    def run(name: str) -> None:
        timers[name].reset()
        contestants[name](one[name])
        parts[name].append(dict(timers[name].seconds))

    functions = {name: partial(run, name) for name in contestants}
    timings = time_interleaved(functions, runs, warmup, errors, clock)
    for timer in timers.values():
        timer.release()
    for name, timing in timings.items():
        costs[name].latency, costs[name].spread = timing.median, timing.spread
        costs[name].parts = _median_parts(parts[name][warmup:])
        call = partial(contestants[name], one[name])
        costs[name].peak_memory = peak_memory(call)
        if not contestants[
            name
        ].setting.compiled:  # the counter would not see into a compiled graph
            costs[name].multiply_adds = count_multiply_adds(call)
    if batch_runs:
        batches = {n: contestants[n].prepare(setting.images(batch_size)) for n in timings}
        functions = {name: partial(contestants[name], batches[name]) for name in timings}
        for name, timing in time_interleaved(functions, batch_runs, 1, errors, clock).items():
            costs[name].throughput = batch_size / timing.median
    for name, error in errors.items():
        costs[name].error = error
    return costs


def build_all(builders: Mapping[str, Builder], errors: dict[str, str]) -> dict[str, Contestant]:
    """Build what can be built.

    Args:
        builders: name -> what builds it.
        errors: gets name -> message of what cannot.
    """
    built = {}
    for name, build in builders.items():
        try:
            built[name] = build()
        except Exception as error:  # whatever is wrong with one config, the others are measured
            errors[name] = describe_error(error)
    return built


def _median_parts(runs: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: statistics.median(run.get(name, 0.0) for run in runs) for name in names}


def cost_table(costs: Mapping[str, Cost]) -> str:
    """Markdown: a line for each row."""
    headers = (
        "network",
        "parameters, M",
        "multiply-adds, G",
        "latency, ms (min-max)",
        "images/s",
        "memory, MB",
    )
    lines = []
    for name, cost in costs.items():
        if cost.error:
            lines.append((name, f"failed: {cost.error}", *[""] * 4))
            continue
        low, high = cost.spread
        lines.append(
            (
                name,
                f"{cost.num_parameters / 1e6:.2f}",
                _number(cost.multiply_adds / 1e9, 1),
                f"{cost.latency * 1e3:.1f} ({low * 1e3:.1f}-{high * 1e3:.1f})",
                _number(cost.throughput, 1),
                f"{cost.peak_memory / 1e6:.0f}",
            )
        )
    align = ("left", *["right"] * 5)
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True, colalign=align)


def parts_table(costs: Mapping[str, Cost]) -> str:
    """Markdown: milliseconds of each part, for the rows that are split; empty if none is."""
    split = {name: cost.parts for name, cost in costs.items() if cost.parts and not cost.error}
    names = dict.fromkeys(part for parts in split.values() for part in parts)
    columns = sorted(names, key=_part_order)
    lines = [
        (name, *[f"{parts[part] * 1e3:.1f}" if part in parts else "" for part in columns])
        for name, parts in split.items()
    ]
    if not lines:
        return ""
    headers = ("ms, batch 1", *columns)
    align = ("left", *["right"] * len(columns))
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True, colalign=align)


_ORDER = ("preprocessing", "backbone", "neck", "head", "decoding", "post-processing")


def _part_order(part: str) -> tuple[int, str]:
    return _ORDER.index(part.split()[0]), part


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def cost_json(costs: Mapping[str, Cost]) -> dict[str, Any]:
    """The rows as JSON takes them; numbers that were not measured are left out."""
    rows: dict[str, Any] = {}
    for name, cost in costs.items():
        values = {key: value for key, value in vars(cost).items() if value not in ("", (), {})}
        if cost.error:
            values = {"error": cost.error}
        rows[name] = {
            key: value
            for key, value in values.items()
            if not (isinstance(value, float) and math.isnan(value))
        }
    return rows
