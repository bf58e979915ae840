#!/usr/bin/env python
"""Measure, side by side in one run: target making, decoding, training memory, and MAE.

    python tools/benchmark.py targets
    python tools/benchmark.py decoding --config-file configs/mcn_seg_det_pose.yaml
    python tools/benchmark.py memory --config-file configs/mcn_seg_det_pose.yaml --iterations 300
    python tools/benchmark.py mae --config-file quick/mae_pretrain.yaml --size 96 --threads 1

Overrides may follow as KEY VALUE. The networks have random weights. Times are medians; compare the
ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import ImageList

import d2_multitask
from d2_multitask.engine.benchmark import loop_targets, random_people, time_interleaved
from d2_multitask.engine.mae_benchmark import measure_mae
from d2_multitask.heads import Decoded


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    cfg = d2_multitask.load_config(args.config_file, args.opts)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = args.device
    results = MEASUREMENTS[args.what](cfg, args)
    for name, value in results.items():
        print(f"{name:<44}{value:>12.4g}")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=list(MEASUREMENTS))
    parser.add_argument("--config-file", default="mcn_seg_det_pose.yaml")
    parser.add_argument("--size", type=int, default=512, help="side of the input, pixels")
    parser.add_argument("--batch", type=int, help="images (default: targets 16, else 1 or 2)")
    parser.add_argument("--people", type=int, default=10, help="people an image")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=300, help="memory: training steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="also write the numbers to this file")
    # After a positional argument, argparse.REMAINDER would swallow the options too.
    args, opts = parser.parse_known_args()
    args.opts = opts
    return args


def measure_targets(cfg: CfgNode, args: argparse.Namespace) -> dict[str, float]:
    """Our targets of centre, box and pose against the per-object NumPy loop."""
    batch = random_people(args.batch or 16, args.people, (args.size, args.size))
    model = build_model(cfg)
    images = ImageList.from_tensors([x["image"].float() for x in batch])
    heads = [head for name, head in model.heads.items() if name in ("center", "det", "pose")]
    timings = time_interleaved(
        {
            "ours": lambda: [head.targets(batch, images) for head in heads],
            "loop": lambda: loop_targets(batch, heads[0].stride),
        },
        args.runs,
    )
    ours, loop = timings["ours"].median, timings["loop"].median
    return {
        "targets, ours, ms": ours * 1e3,
        "targets, NumPy loop, ms": loop * 1e3,
        "ratio loop / ours": loop / ours,
    }


def measure_decoding(cfg: CfgNode, args: argparse.Namespace) -> dict[str, float]:
    """Decoding and post-processing against the network's forward pass."""
    model = build_model(cfg).eval()
    batch = random_people(args.batch or 1, args.people, (args.size, args.size))
    images = model.preprocess_image(batch)
    names = list(model.heads)

    @torch.no_grad()
    def forward() -> dict[str, Any]:
        features = model.backbone(images.tensor)
        return {name: model.heads[name].layers(features) for name in names}

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

    timings = time_interleaved({"forward": forward, "decode": decode}, args.runs)
    forward_time, decode_time = timings["forward"].median, timings["decode"].median
    return {
        "forward, ms": forward_time * 1e3,
        "decoding and post-processing, ms": decode_time * 1e3,
        "decoding in % of forward": 100 * decode_time / forward_time,
    }


def measure_memory(cfg: CfgNode, args: argparse.Namespace) -> dict[str, float]:
    """Peak resident memory of training, and how much it grows after the first tenth of it."""
    model = build_model(cfg).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    early = peak_gigabytes()
    for iteration in range(args.iterations):
        batch = random_people(args.batch or 2, args.people, (args.size, args.size), seed=iteration)
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
        if iteration == max(args.iterations // 10, 1):
            early = peak_gigabytes()
    return {
        "peak memory, GB": peak_gigabytes(),
        "growth after the first tenth, GB": peak_gigabytes() - early,
    }


def measure_autoencoder(cfg: CfgNode, args: argparse.Namespace) -> dict[str, float]:
    """Encoder with and without masking, and the training step, also Hugging Face's if installed."""
    cfg.MODEL.MAE.IMAGE_SIZE = (args.size, args.size)
    images = torch.randn(args.batch or 8, 3, args.size, args.size, device=args.device)
    return measure_mae(build_model(cfg).train(), images, args.runs)


def peak_gigabytes() -> float:
    """Peak resident memory of this process (on Linux ru_maxrss is in KiB), or of the GPU."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


MEASUREMENTS = {
    "targets": measure_targets,
    "decoding": measure_decoding,
    "memory": measure_memory,
    "mae": measure_autoencoder,
}


if __name__ == "__main__":
    main()
