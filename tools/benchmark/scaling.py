"""What data-parallel training on many GPUs costs: measured steps, computed messages.

A step's gradients are summed over all GPUs by a ring all-reduce, in which each GPU sends and
receives 2 (n - 1) / n times the gradients' bytes; it takes that divided by the bandwidth of the
slowest link, each way (nccl-tests, doc/PERFORMANCE.md). Latency is left out.
``DistributedDataParallel`` sends while the backward pass runs, so that between all of it and what
is longer than the backward pass is added to the step.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from benchmark.networks import Setting
from benchmark.timing import Clock, synchronize
from d2_multitask.engine.solver import build_optimizer

GPUS_PER_MACHINE = 8
GPUS = (1, 8, 64)

# Bytes per second each way, as published; NCCL reaches less.
LINKS = {
    "NVLink 4 (H100)": 450e9,  # NVIDIA: 900 GB/s, both ways together
    "PCIe 4.0 x16": 31.5e9,  # PCI-SIG: 16 GT/s, 16 lanes, 128b/130b
    "InfiniBand NDR, 400 Gb/s": 50e9,
    "InfiniBand EDR or Ethernet, 100 Gb/s": 12.5e9,
    "Ethernet, 10 Gb/s": 1.25e9,
}
INSIDE = ("NVLink 4 (H100)", "PCIe 4.0 x16")


@dataclass(frozen=True)
class Step:
    """A network's training step on one device.

    Attributes:
        gradient_bytes: of all learned parameters.
        seconds: of the step.
        backward: its share that is the backward pass.
        images: of its batch.
    """

    gradient_bytes: int
    seconds: float
    backward: float
    images: int


def measure_step(cfg: CfgNode, setting: Setting, batch: int, runs: int, clock: Clock) -> Step:
    """Median of training steps on random images, one more before them.

    Args:
        cfg: of the network and optimizer.
        setting: size of the images, people in them.
        batch: images.
        runs: counted steps.
        clock: see `benchmark.timing.CLOCKS`.
    """
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    inputs = setting.images(batch)
    times = []
    for _ in range(runs + 1):
        optimizer.zero_grad()
        start = clock()
        loss = sum(model(inputs).values())
        synchronize()
        forward = clock()
        loss.backward()
        synchronize()
        backward = clock()
        optimizer.step()
        synchronize()
        times.append((clock() - start, backward - forward))
    seconds, share = (statistics.median(column) for column in zip(*times[1:], strict=True))
    learned = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() * p.element_size() for p in learned)
    return Step(size, seconds, share / seconds, batch)


def all_reduce_seconds(gradient_bytes: int, gpus: int, bandwidth: float) -> float:
    """See the module; ``bandwidth`` of the slowest link in bytes a second each way."""
    return 2 * (gpus - 1) / gpus * gradient_bytes / bandwidth


def scaling_rows(step: Step) -> list[dict[str, float | str]]:
    """A row for each number of GPUs and link between the machines, or inside of the only one."""
    rows = []
    for gpus in GPUS:
        links = INSIDE if gpus <= GPUS_PER_MACHINE else [x for x in LINKS if x not in INSIDE]
        for link in links if gpus > 1 else ["-"]:
            message = all_reduce_seconds(step.gradient_bytes, gpus, LINKS.get(link, 1.0))
            left = max(message - step.backward * step.seconds, 0.0)
            speeds = [gpus * step.images / (step.seconds + added) for added in (message, left)]
            rows.append(
                {
                    "GPUs": gpus,
                    "slowest link": link,
                    "all-reduce, ms": 1e3 * message,
                    "efficiency, nothing hidden": step.seconds / (step.seconds + message),
                    "efficiency, hidden in backward": step.seconds / (step.seconds + left),
                    "images/s, nothing hidden": speeds[0],
                    "images/s, hidden": speeds[1],
                }
            )
    return rows


def scaling_table(steps: Mapping[str, Step], given: Sequence[float]) -> str:
    """Markdown tables of all networks; ``given`` says that the steps' seconds were not measured."""
    measured = "given" if given else "measured here"
    tables = []
    for name, step in steps.items():
        rows = [
            [
                row["GPUs"],
                row["slowest link"],
                f"{row['all-reduce, ms']:.3g}",
                *_ranges(row, "efficiency", ".2f"),
                *_ranges(row, "images/s", ".0f"),
            ]
            for row in scaling_rows(step)
        ]
        head = ["GPUs", "slowest link", "all-reduce, ms", "efficiency", "images/s"]
        tables.append(
            f"{name}: {step.gradient_bytes / 1e6:.1f} MB of gradients; {step.images} images on a "
            f"GPU in {step.seconds:.3f} s ({measured}), {100 * step.backward:.0f} % of it backward "
            "(measured here). The rows are computed, not run.\n\n"
            + tabulate(rows, head, tablefmt="github", disable_numparse=True)
        )
    return "\n\n".join(tables)


def _ranges(row: Mapping[str, float | str], start: str, form: str) -> list[str]:
    low, high = (format(value, form) for key, value in row.items() if key.startswith(start))
    return [low if low == high else f"{low} to {high}"]
