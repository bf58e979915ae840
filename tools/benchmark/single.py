"""Measurements of one thing about one config: target making, decoding, memory of a training."""

from __future__ import annotations

import resource
import time
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import Tensor, nn

from benchmark.loop_targets import loop_targets
from benchmark.networks import Setting, build_networks
from benchmark.people import random_people
from benchmark.timing import Clock, paired_ratio, time_interleaved
from d2_multitask.heads import BatchLabels, Decoded
from d2_multitask.modeling.backbones.centernet import conv_norm_relu

OBJECT_TASKS = ("center", "det", "pose")


def measure_targets(
    cfg: CfgNode,
    setting: Setting,
    batch: int | None = None,
    runs: int = 10,
    warmup: int = 2,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Our targets of centre, box and pose against the per-object NumPy loop."""
    inputs = setting.images(batch or 16)
    model = build_model(cfg)
    pixels = ImageList.from_tensors([x["image"].float() for x in inputs])
    heads = [head for name, head in model.heads.items() if name in OBJECT_TASKS]

    def targets() -> list[Any]:
        labels = BatchLabels(inputs, pixels)  # new in every step
        return [head.targets(labels) for head in heads]

    timings = time_interleaved(
        {
            "ours": targets,
            "loop": lambda: loop_targets(inputs, heads[0].stride),
        },
        runs,
        warmup,
        clock=clock,
    )
    ours, loop = timings["ours"].median, timings["loop"].median
    return {
        "targets, ours, ms": ours * 1e3,
        "targets, NumPy loop, ms": loop * 1e3,
        "ratio loop / ours": loop / ours,
    }


def measure_deformable(
    cfg: CfgNode,
    setting: Setting,
    batch: int | None = None,
    runs: int = 10,
    warmup: int = 2,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Deformable convolutions of DLA-34's up-sampling against plain 3x3 ones of the same size.

    Args:
        cfg: not read; the layers are those of the published network.
        setting: device, type, memory order and size of the images.
        batch: images; 1 if not given.
        runs: counted turns.
        warmup: turns before them.
        clock: see `benchmark.timing.CLOCKS`.
    """
    device = torch.device(setting.device)
    order = torch.channels_last if setting.channels_last else torch.contiguous_format
    numbers = {}
    for stride, channels in ((4, 64), (8, 128), (16, 256)):
        side = -(-setting.size // stride)
        x = torch.randn(batch or 1, channels, side, side, device=device)
        x = x.contiguous(memory_format=order)
        layers = {
            name: conv_norm_relu(channels, channels, deformable=deformable)
            .to(device, memory_format=order)
            .eval()
            for name, deformable in (("plain", False), ("deformable", True))
        }

        def run(layer: nn.Module, x: Tensor = x) -> Tensor:
            with (
                torch.no_grad(),
                torch.autocast(device.type, setting.dtype, enabled=setting.dtype != torch.float32),
            ):
                return layer(x)

        timings = time_interleaved(
            {name: partial(run, layer) for name, layer in layers.items()},
            runs,
            warmup,
            clock=clock,
        )
        what = f"{channels} channels at stride {stride}"
        for name, timing in timings.items():
            numbers[f"{what}, {name}, ms"] = timing.median * 1e3
        ratio = paired_ratio(timings["deformable"], timings["plain"])
        numbers[f"{what}, ratio deformable / plain"] = ratio
    return numbers


def measure_decoding(
    cfg: CfgNode,
    setting: Setting,
    batch: int | None = None,
    runs: int = 10,
    warmup: int = 2,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Decoding and post-processing against the network's forward pass.

    In a fused network decoding includes the branches that wait for their cells.
    """
    contestant = build_networks(cfg, [cfg.MODEL.TASKS], setting)
    (model,) = contestant.networks
    inputs = setting.images(batch or 1)
    names = list(model.heads)

    @torch.no_grad()
    def forward() -> dict[str, Any]:
        features = model.backbone(images.tensor)
        return {name: model.heads[name].layers(features) for name in names}

    images = model.preprocess_image(inputs)
    predictions = forward()

    @torch.no_grad()
    def decode() -> list[dict[str, Any]]:
        decoded = Decoded()
        for name in names:
            model.heads[name].inference(predictions[name], images, decoded)
        return [
            {
                key: value
                for name in names
                for key, value in model.heads[name].postprocess(decoded, index, size, size).items()
            }
            for index, size in enumerate(images.image_sizes)
        ]

    functions = {"forward": forward, "decode": decode}
    timings = time_interleaved(functions, runs, warmup, clock=clock)
    forward_time, decode_time = timings["forward"].median, timings["decode"].median
    return {
        "forward, ms": forward_time * 1e3,
        "decoding and post-processing, ms": decode_time * 1e3,
        "decoding in % of forward": 100 * decode_time / forward_time,
    }


def measure_growth(
    cfg: CfgNode, setting: Setting, batch: int | None = None, iterations: int = 300
) -> dict[str, float]:
    """Peak resident memory of training, and how much it grows after the first tenth of it."""
    model = build_model(cfg).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    early = peak_gigabytes()
    size = (setting.size, setting.size)
    for iteration in range(iterations):
        inputs = random_people(batch or 2, setting.people, size, seed=iteration)
        optimizer.zero_grad()
        sum(model(inputs).values()).backward()
        optimizer.step()
        if iteration == max(iterations // 10, 1):
            early = peak_gigabytes()
    return {
        "peak memory, GB": peak_gigabytes(),
        "growth after the first tenth, GB": peak_gigabytes() - early,
    }


def peak_gigabytes() -> float:
    """Peak resident memory of this process (on Linux ru_maxrss is in KiB), or of the GPU."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
