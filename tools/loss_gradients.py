#!/usr/bin/env python
"""Measures the gradient of each task with respect to the features that all tasks share.

    python tools/loss_gradients.py --config-file output/quick/mcn_seg_det_pose/config.yaml \
        --run output/quick/mcn_seg_det_pose --output output/loss_gradients
    python tools/loss_gradients.py --config-file quick/mcn_seg_det_pose.yaml \
        MODEL.WEIGHTS output/quick/mcn_seg_det_pose/model_final.pth

With --run all checkpoints of a training, model_*.pth, otherwise the one of MODEL.WEIGHTS, which may
be what a training starts from: the report says which tensors it has no values for. The network
gets the same batches of DATASETS.TRAIN each time, as in training, and learns nothing.
OUTPUT gets gradients.md, gradients.json and gradients.png: the share of each task in the sum of
the gradients' norms, the cosine between two tasks (below 0: opposite directions), the condition
number of the matrix of all gradients (arXiv 2305.19000; 1 = orthogonal and equally long), losses as
weighted in training, also by automatic weights, and one sentence of advice.

The shared features are the backbone's outputs. Where tasks have calls of their own of the shared
layers, as those of a masked autoencoder with reconstruction, their cosine is 0 by definition.

Exit code: 0; 2 if something was typed wrong or a gradient is not finite; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from torch import nn

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.checkpoint import MultitaskCheckpointer
from d2_multitask.config import load_config
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.loader import build_train_loader
from d2_multitask.data.whole_files import write_text
from d2_multitask.engine.setup import fall_back_to_cpu, parse_with_overrides
from d2_multitask.engine.solver import build_optimizer
from d2_multitask.engine.teachers import add_teachers
from d2_multitask.engine.trainer import load_for_evaluation
from d2_multitask.exits import exit_code
from studies.gradients.measure import Measurement, balancing_weights, measure, read_curves
from studies.gradients.picture import draw_gradients
from studies.gradients.report import advice, fresh_note, report_json, report_markdown


def checkpoints(folder: Path) -> list[Path]:
    """Those of a training by iteration, the final one last.

    Raises:
        ValueError: there is none.
    """
    found = [*sorted(folder.glob("model_[0-9]*.pth")), *folder.glob("model_final.pth")]
    if not found:
        raise ValueError(
            f"--run {folder}: found no model_*.pth, expected the OUTPUT_DIR of a training; "
            "SOLVER.CHECKPOINT_PERIOD says how often it saves"
        )
    return found


def load_checkpoint(
    cfg: CfgNode, args: argparse.Namespace, model: nn.Module, file: str
) -> tuple[dict[str, Any], list[str]]:
    """Load weights as trained, not averaged.

    Returns:
        The file's other content, and the tensors of the network that it has no values for.

    Raises:
        ValueError: it is of ``--run`` and has no values for some of them.
    """
    if not file:
        load_for_evaluation(cfg, model)  # warns
        return {}, [name for name, _ in model.named_parameters()]
    checkpointer = MultitaskCheckpointer(model, use_ema=False)
    content = checkpointer.load(file)
    missing = checkpointer.report.missing
    if missing and args.run:
        raise ValueError(
            f"--config-file {args.config_file}: {file} has no values for {len(missing)} tensors of "
            f"its network, e.g. {missing[0]}; expected the training's own config, such as "
            f"{args.run / 'config.yaml'}"
        )
    return content, missing


def measure_all(cfg: CfgNode, args: argparse.Namespace) -> Iterator[Measurement]:
    """One measurement a checkpoint."""
    files = checkpoints(args.run) if args.run else [cfg.MODEL.WEIGHTS]
    seed_all_rng(max(cfg.SEED, 0))
    model = build_model(cfg).train()
    add_teachers(cfg, model)
    build_optimizer(cfg, model)  # or its heads warn that nobody did
    batches = list(itertools.islice(build_train_loader(cfg), args.batches))
    measured: set[int] = set()
    for file in files:
        content, fresh = load_checkpoint(cfg, args, model, str(file))
        iteration = content.get("iteration", 0)
        if iteration not in measured:  # the final one may be that of the last period
            measured.add(iteration)
            seed_all_rng(max(cfg.SEED, 0))  # removed patches, sampled boxes
            found = measure(model, batches, iteration, balancing_weights(content))
            yield replace(found, fresh=fresh)


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name below configs/")
    parser.add_argument("--run", type=Path, help="OUTPUT_DIR of a training: all its checkpoints")
    parser.add_argument("--output", type=Path, default=Path("output/loss_gradients"))
    parser.add_argument("--batches", type=int, default=4, help="how many (default: 4)")
    args = parse_with_overrides(parser, arguments)
    if args.batches < 1:
        parser.error(f"--batches: found {args.batches}, expected >= 1")
    if args.run and "MODEL.WEIGHTS" in args.opts[::2]:
        parser.error("found --run, all checkpoints of a training, and MODEL.WEIGHTS, expected one")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output: found the file {args.output}, expected a folder")
    return args


def run(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    fall_back_to_cpu(cfg)
    register_datasets(cfg.DATASETS.REGISTER)
    cfg.freeze()
    args.output.mkdir(parents=True, exist_ok=True)
    measurements = list(measure_all(cfg, args))
    sentences = [*fresh_note(measurements), *advice(cfg, measurements)]
    markdown = report_markdown(measurements, sentences)
    write_text(args.output / "gradients.md", markdown)
    write_text(args.output / "gradients.json", report_json(measurements, sentences))
    curves = read_curves(args.run / "metrics.json") if args.run else {}
    draw_gradients(measurements, curves, args.output / "gradients.png")
    print(markdown)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    setup_logger(name="d2_multitask", abbrev_name="d2_multitask")
    if args.run:  # all tensors of all checkpoints are there
        logging.getLogger("d2_multitask.checkpoint").setLevel(logging.WARNING)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
