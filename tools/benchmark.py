#!/usr/bin/env python
"""Measures time and memory of networks; what is compared runs in turn in one process.

    python tools/benchmark.py ratios          # the documented ratios and their targets
    python tools/benchmark.py cost --config-file mcn_r18_seg_det_pose.yaml mcn_seg_det_pose.yaml
    python tools/benchmark.py step --config-file mcn_r18_seg_det_pose.yaml
    python tools/benchmark.py loader --config-file mcn_r18_seg_det_pose.yaml --workers 0 1 2
    python tools/benchmark.py evaluation | targets | decoding | memory | deformable
    python tools/benchmark.py mae --config-file quick/mae_pretrain.yaml --size 96 --threads 1
    python tools/benchmark.py vit --config-file mask_rcnn_mae_pascal_in_detail.yaml --batch 1
    python tools/benchmark.py relation --config-file quick/mae_pretrain.yaml --size 96 --passes 256
    python tools/benchmark.py shards --config-file mae_pretrain_base.yaml --images 1024 --workers 2
    python tools/benchmark.py scaling --config-file mae_pretrain_base.yaml --size 224 --batch 8
    python tools/benchmark.py deploy --config-file mcn_fast_seg_det_pose.yaml --threads 1 --int8

ratios      all ratios by name; results.json in --output
cost        parameters, multiply-adds, latency, throughput, memory and parts: each config, the
            single-task networks that do the same, its bare backbone, Detectron2's composition
step        where a training step's time goes, on synthetic people
loader      images per second of the training loader alone, by number of workers
evaluation  COCO's metrics through our evaluator against pycocotools
targets     target making against the customary loop
decoding    decoding and post-processing against the forward pass
memory      peak memory of a training and whether it grows
deformable  deformable convolutions against plain ones of the same size
mae         a masked autoencoder's encoder with and without masking, and its training step, also
            Hugging Face's if that is installed
vit         a config's transformer backbone against Detectron2's of the same size: time, memory
relation    how much patches help each other to be reconstructed: in batches against one call for
            each visible set, memory, and what share of a segmentation is not the autoencoder
shards      images per second of the training loader: a folder, the same images in shards, and in
            shards over HTTP on loopback, in turn
scaling     gradients' bytes and training steps, and what they become on 8 and 64 GPUs (computed)
deploy      exported files in ONNX Runtime and OpenVINO against the eager network and --peer files

Config overrides may follow as KEY VALUE. Networks have random weights. Compare ratios, not seconds;
on a machine that others use too, add --clock cpu --threads 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model

import d2_multitask  # noqa: F401 (registers datasets and networks)
from benchmark.cost import cost_json, cost_table, measure_costs, parts_table
from benchmark.deploy import deploy_json, deploy_table, measure_deploy
from benchmark.evaluation import measure_evaluation
from benchmark.mae import measure_mae
from benchmark.networks import (
    Setting,
    detectron2_rows,
    network_cfg,
    rows_of_config,
)
from benchmark.ratios import (
    GROUPS,
    Effort,
    in_own_process,
    measure_ratios,
    ratio_table,
    ratios_json,
    training_cfg,
)
from benchmark.relation import measure_relation_cost
from benchmark.scaling import measure_step, scaling_rows, scaling_table
from benchmark.shards import measure_shards
from benchmark.single import (
    measure_decoding,
    measure_deformable,
    measure_growth,
    measure_targets,
)
from benchmark.timing import CLOCKS
from benchmark.training import (
    measure_loader,
    measure_steps,
    share_around_network,
)
from benchmark.vit import measure_vit, vit_table
from d2_multitask.engine.setup import parse_with_overrides
from d2_multitask.exits import exit_code

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# What a command prints, what it writes as JSON, and whether all of it succeeded.
Outcome = tuple[str, dict[str, Any], bool]


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    torch.set_num_threads(args.threads)
    return exit_code(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    text, content, succeeded = COMMANDS[args.what](args)
    print(text)
    content["setting"] = describe_setting(args)
    path = args.output / ("results.json" if args.what == "ratios" else f"{args.what}.json")
    args.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"\n{describe_setting(args)}\nAlso in {path}")
    return 0 if succeeded else 1


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=sorted(COMMANDS))
    parser.add_argument("--config-file", nargs="+", default=["mcn_r18_seg_det_pose.yaml"])
    parser.add_argument("--output", type=Path, default=Path("output/benchmark"))
    parser.add_argument("--size", type=int, default=512, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, help="images of a batch (each command has its own)")
    parser.add_argument("--people", type=int, default=10, help="people per image")
    parser.add_argument("--runs", type=int, default=8, help="counted runs, or training steps")
    parser.add_argument("--warmup", type=int, default=2, help="runs before them")
    parser.add_argument("--batch-runs", type=int, default=3, help="cost: runs of a batch; 0 = none")
    parser.add_argument("--iterations", type=int, default=300, help="memory: training steps")
    parser.add_argument(
        "--images", type=int, default=64, help="synthetic images for step and loader"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="of the loader")
    parser.add_argument(
        "--step-seconds",
        type=float,
        nargs="+",
        default=[],
        help="scaling: of --batch images on your GPU, one for each config; otherwise measured",
    )
    parser.add_argument("--passes", type=int, default=256, help="relation: visible sets per image")
    parser.add_argument("--only", nargs="+", choices=sorted(GROUPS), help="ratios: these alone")
    parser.add_argument("--no-detectron2", action="store_true", help="cost: without its rows")
    parser.add_argument("--int8", action="store_true", help="deploy: also the int8 files")
    parser.add_argument(
        "--peer",
        nargs="+",
        default=[],
        metavar="NAME=FILE[,FILE]",
        help="deploy: ONNX files of others; several run one after the other",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="autocast")
    parser.add_argument("--no-channels-last", action="store_true")
    parser.add_argument("--no-fuse", action="store_true", help="networks as they are trained")
    parser.add_argument("--compile", action="store_true", help="cost: also compiled networks")
    args = parse_with_overrides(parser, arguments)
    if args.runs < 1 or args.size < 32:
        parser.error("expected --runs >= 1 and --size >= 32")
    return args


def setting_of(args: argparse.Namespace) -> Setting:
    return Setting(
        device=args.device,
        dtype=DTYPES[args.dtype],
        channels_last=not args.no_channels_last,
        fused=not args.no_fuse,
        size=args.size,
        people=args.people,
    )


def describe_setting(args: argparse.Namespace) -> str:
    options = [
        f"{args.size}x{args.size}",
        f"{args.threads} threads" if args.device == "cpu" else args.device,
        args.dtype,
        "channels-first" if args.no_channels_last else "channels-last",
        "not fused" if args.no_fuse else "fused",
        f"{args.clock} clock",
        f"PyTorch {torch.__version__}",
    ]
    return ", ".join(options)


def run_ratios(args: argparse.Namespace) -> Outcome:
    effort = Effort(args.runs, args.warmup, args.runs, args.images, CLOCKS[args.clock])
    groups = {name: in_own_process(GROUPS[name]) for name in args.only or GROUPS}

    def report(measured: dict[str, Any]) -> None:
        for name, ratio in measured.items():
            print(f"  {name}: {ratio.error or format(ratio.value, '.3f')}", flush=True)

    ratios = measure_ratios(setting_of(args), effort, groups, report)
    failed = any(math.isnan(ratio.value) for ratio in ratios.values())
    return ratio_table(ratios), ratios_json(ratios), not failed


def run_cost(args: argparse.Namespace) -> Outcome:
    setting = setting_of(args)
    rows = {} if args.no_detectron2 else detectron2_rows(setting)
    for config_file in args.config_file:
        rows.update(rows_of_config(config_file, args.opts, setting, args.compile))
    costs = measure_costs(
        rows,
        setting,
        runs=args.runs,
        warmup=args.warmup,
        batch_size=args.batch or 8,
        batch_runs=args.batch_runs,
        clock=CLOCKS[args.clock],
    )
    text = f"{cost_table(costs)}\n\n{parts_table(costs)}"
    return text, {"rows": cost_json(costs)}, not any(cost.error for cost in costs.values())


def run_step(args: argparse.Namespace) -> Outcome:
    clock = CLOCKS[args.clock]
    return on_synthetic_people(
        args, lambda cfg: _step_numbers(measure_steps(cfg, args.runs, args.warmup, clock))
    )


def _step_numbers(parts: dict[str, float]) -> dict[str, float]:
    numbers = {f"{name}, ms": seconds * 1e3 for name, seconds in parts.items()}
    numbers["data, targets and losses, % of a step"] = 100 * share_around_network(parts)
    return numbers


def run_loader(args: argparse.Namespace) -> Outcome:
    def measure(cfg: Any) -> dict[str, float]:
        speeds = measure_loader(cfg, args.workers, args.runs)
        return {f"{workers} workers, images/s": speed for workers, speed in speeds.items()}

    return on_synthetic_people(args, measure)


def on_synthetic_people(
    args: argparse.Namespace, measure: Callable[[Any], dict[str, float]]
) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        workers = max(args.workers)
        cfg = training_cfg(
            args.config_file[0], args.opts, setting_of(args), Path(folder), args.images, workers
        )
        if args.batch:
            cfg.SOLVER.IMS_PER_BATCH = args.batch
        return as_lines(measure(cfg))


def run_shards(args: argparse.Namespace) -> Outcome:
    cfg = network_cfg(args.config_file[0], args.opts, setting_of(args))
    cfg.SOLVER.IMS_PER_BATCH = args.batch or 32
    cfg.DATALOADER.NUM_WORKERS = max(args.workers)
    batches = -(-args.images // (2 * cfg.SOLVER.IMS_PER_BATCH))  # half an epoch a turn
    with tempfile.TemporaryDirectory() as folder:
        return as_lines(measure_shards(cfg, Path(folder), args.images, batches, args.runs))


def run_scaling(args: argparse.Namespace) -> Outcome:
    given = args.step_seconds
    if given and len(given) != len(args.config_file):
        raise ValueError(
            f"--step-seconds: found {len(given)} numbers, expected one for each of "
            f"{len(args.config_file)} configs"
        )
    steps = {}
    for index, name in enumerate(args.config_file):
        cfg = network_cfg(name, args.opts, setting_of(args))
        batch, clock = args.batch or 2, CLOCKS[args.clock]
        step = measure_step(cfg, setting_of(args), batch, args.runs, clock)
        if given:
            step = dataclasses.replace(step, seconds=given[index])
        steps[name.removesuffix(".yaml")] = step
    rows = {
        name: {**dataclasses.asdict(step), "rows": scaling_rows(step)}
        for name, step in steps.items()
    }
    return scaling_table(steps, given), {"computed, not run": rows}, True


def run_evaluation(args: argparse.Namespace) -> Outcome:
    return as_lines(measure_evaluation(10 * args.images, CLOCKS[args.clock]))


def run_single(measure: Callable[..., dict[str, float]], **names: str) -> Callable[..., Outcome]:
    """A command that measures one thing about one config; ``names``: parameter -> argument."""

    def run(args: argparse.Namespace) -> Outcome:
        setting = setting_of(args)
        cfg = network_cfg(args.config_file[0], args.opts, setting)
        options = {parameter: getattr(args, name) for parameter, name in names.items()}
        if "clock" in options:
            options["clock"] = CLOCKS[args.clock]
        return as_lines(measure(cfg, setting, batch=args.batch, **options))

    return run


def as_lines(numbers: dict[str, float]) -> Outcome:
    return "\n".join(f"{name:<44}{value:>12.4g}" for name, value in numbers.items()), numbers, True


def run_autoencoder(args: argparse.Namespace) -> Outcome:
    images = torch.randn(args.batch or 8, 3, args.size, args.size, device=args.device)
    model = autoencoder_of(args).train()
    return as_lines(measure_mae(model, images, args.runs, args.warmup, CLOCKS[args.clock]))


def run_relation(args: argparse.Namespace) -> Outcome:
    image = torch.randn(3, args.size, args.size, device=args.device)
    clock = CLOCKS[args.clock]
    numbers = measure_relation_cost(
        autoencoder_of(args).eval(), image, args.passes, args.runs, args.warmup, clock
    )
    return as_lines(numbers)


def autoencoder_of(args: argparse.Namespace) -> Any:
    cfg = network_cfg(args.config_file[0], args.opts, setting_of(args))
    cfg.MODEL.MAE.IMAGE_SIZE = (args.size, args.size)
    return build_model(cfg)


def run_backbone(args: argparse.Namespace) -> Outcome:
    cfg = network_cfg(args.config_file[0], args.opts, setting_of(args))
    images = torch.randn(args.batch or 1, 3, args.size, args.size, device=args.device)
    results = measure_vit(cfg, images, args.runs, args.warmup, CLOCKS[args.clock])
    rows = {name: dataclasses.asdict(result) for name, result in results.items()}
    return vit_table(results), {"rows": rows}, True


def run_deploy(args: argparse.Namespace) -> Outcome:
    setting = setting_of(args)
    cfgs = {
        name.removesuffix(".yaml"): network_cfg(name, args.opts, setting)
        for name in args.config_file
    }
    peers = {}
    for peer in args.peer:
        name, _, files = peer.partition("=")
        peers[name] = [Path(file) for file in files.split(",")]
        if missing := [file for file in peers[name] if not file.is_file()]:
            raise ValueError(f"--peer {peer}: expected NAME=FILE[,FILE], found no {missing[0]}")
    options = {"runs": args.runs, "warmup": args.warmup, "clock": CLOCKS[args.clock]}
    result = measure_deploy(cfgs, peers, setting, int8=args.int8, **options)
    return deploy_table(*result), deploy_json(*result), not result[2]


TIMED = {"runs": "runs", "warmup": "warmup", "clock": "clock"}
COMMANDS: dict[str, Callable[[argparse.Namespace], Outcome]] = {
    "ratios": run_ratios,
    "cost": run_cost,
    "step": run_step,
    "loader": run_loader,
    "shards": run_shards,
    "scaling": run_scaling,
    "evaluation": run_evaluation,
    "targets": run_single(measure_targets, **TIMED),
    "decoding": run_single(measure_decoding, **TIMED),
    "deformable": run_single(measure_deformable, **TIMED),
    "memory": run_single(measure_growth, iterations="iterations"),
    "mae": run_autoencoder,
    "vit": run_backbone,
    "relation": run_relation,
    "deploy": run_deploy,
}


if __name__ == "__main__":
    sys.exit(main())
