"""Cost of relations from reconstruction errors: against a call for each visible set, and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor

from d2_multitask.engine.benchmark.counting import peak_memory
from d2_multitask.engine.benchmark.timing import Clock, paired_ratio, time_interleaved
from d2_multitask.modeling.mae import MAENetwork
from d2_multitask.patch_graph import Budget, SegmenterSettings, measure_relation, segment_image
from d2_multitask.patch_graph.autoencoder import ErrorMeter, default_batch_size
from d2_multitask.patch_graph.estimators import Ridge

# Sets that are measured one by one in a counted run; the time of one does not depend on it.
TIMED_SETS = 48


def measure_relation_cost(
    model: MAENetwork,
    image: Tensor,
    passes: int = 256,
    runs: int = 3,
    warmup: int = 1,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Time and memory of the ridge relation of one image; see the module.

    Args:
        model: in evaluation mode.
        image: (3, H, W), normalised, on the model's device.
        passes: visible sets of the relation that memory and shares are measured of.
        runs: counted runs of each.
        warmup: runs before them.
        clock: one of `d2_multitask.engine.benchmark.timing.CLOCKS`.

    Returns:
        Milliseconds, ratios, shares in percent and megabytes by name.
    """
    num_patches = image[0].numel() // model.patch_size**2
    sets = Ridge(num_patches).draw(passes).to(image.device)
    calls = {
        "set by set": lambda: _set_by_set(model, image, sets[:TIMED_SETS]),
        "in batches": _in_batches(model, image, sets, None),
        "in batches, bfloat16": _in_batches(model, image, sets, torch.bfloat16),
    }
    timings = time_interleaved(calls, runs, warmup, clock=clock)
    counts = [len(sets[:TIMED_SETS]), len(sets), len(sets)]
    results = {
        f"{name}, ms a set": 1e3 * timing.median / count
        for (name, timing), count in zip(timings.items(), counts, strict=True)
    }
    for name in ("in batches", "in batches, bfloat16"):
        ratio = paired_ratio(timings["set by set"], timings[name])
        results[f"set by set / {name}"] = ratio * len(sets) / counts[0]
    results["sets a batch"] = default_batch_size(model, num_patches, image.device)
    budget = Budget(passes)
    needed = peak_memory(lambda: measure_relation(model, image, "ridge", budget))
    results[f"memory of {passes} sets, MB"] = needed / 1e6
    results["memory of the process, MB"] = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    )
    results.update(_shares(model, image, passes))
    return results


@torch.no_grad()
def _set_by_set(model: MAENetwork, image: Tensor, sets: Tensor) -> None:
    for visible in sets:
        model.reconstruct(image[None], visible[None])


def _in_batches(
    model: MAENetwork, image: Tensor, sets: Tensor, dtype: torch.dtype | None
) -> Callable[[], None]:
    def run() -> None:
        ErrorMeter(model, image, dtype=dtype).errors(sets)

    return run


def _shares(model: MAENetwork, image: Tensor, passes: int) -> dict[str, float]:
    """Where the time of a whole segmentation goes; the first one pays for imports."""
    settings = SegmenterSettings(passes=passes)
    for _ in range(2):
        found = segment_image(model, image, settings)
    total = sum(found.seconds.values())
    shares = {
        f"{stage}, % of a segmentation": 100 * s / total for stage, s in found.seconds.items()
    }
    shares["outside of the autoencoder and the relation, %"] = 100 * found.share_after_measuring
    return shares
