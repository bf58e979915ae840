"""Cost of relations from reconstruction errors: against a call for each visible set, and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.counting import peak_memory
from benchmark.timing import Clock, paired_ratio, time_interleaved
from d2_multitask.modeling.mae import MAENetwork
from d2_multitask.patch_graph import SegmenterSettings, segment_image
from d2_multitask.patch_graph.autoencoder import ErrorMeter, default_batch_size
from d2_multitask.patch_graph.estimators import Ridge

# Sets of a counted run, one by one and in batches; the time of one hardly depends on it.
SETS_ONE_BY_ONE = 48
SETS_IN_BATCHES = 192


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
        clock: one of `benchmark.timing.CLOCKS`.

    Returns:
        Milliseconds, ratios, shares in percent and megabytes by name.
    """
    num_patches = image[0].numel() // model.patch_size**2
    sets = Ridge(num_patches).draw(min(passes, SETS_IN_BATCHES)).to(image.device)
    few = sets[:SETS_ONE_BY_ONE]
    calls = {
        "set by set": lambda: _set_by_set(model, image, few),
        "in batches": _in_batches(model, image, sets, None),
        "in batches, bfloat16": _in_batches(model, image, sets, torch.bfloat16),
    }
    timings = time_interleaved(calls, runs, warmup, clock=clock)
    counts = {name: len(few if name == "set by set" else sets) for name in calls}
    results = {
        f"{name}, ms a set": 1e3 * timing.median / counts[name] for name, timing in timings.items()
    }
    for name in ("in batches", "in batches, bfloat16"):
        ratio = paired_ratio(timings["set by set"], timings[name])
        results[f"set by set / {name}"] = ratio * len(sets) / len(few)
    results["sets a batch"] = default_batch_size(model, num_patches, image.device)
    results.update(_segmentation(model, image, passes))
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


def _segmentation(model: MAENetwork, image: Tensor, passes: int) -> dict[str, float]:
    """Memory of a whole segmentation, and where its time goes."""
    import networkx  # noqa: F401 (its import would count as time of the communities)

    found = []
    settings = SegmenterSettings(passes=passes)
    needed = peak_memory(lambda: found.append(segment_image(model, image, settings)))
    seconds = found[0].seconds
    total = sum(seconds.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        f"memory of a segmentation with {passes} sets, MB": needed / 1e6,
        "memory of the process at its peak, MB": peak / 1e6,
        **{f"{stage}, % of a segmentation": 100 * s / total for stage, s in seconds.items()},
        "neither relation nor autoencoder, %": 100 * found[0].share_after_measuring,
    }
