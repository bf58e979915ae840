"""Trains or evaluates a network; the arguments are those of Detectron2's tools/train_net.py.

    d2mt train --config-file quick/mcn_seg_det_pose.yaml OUTPUT_DIR output/quick
    d2mt train --config-file quick/mcn_seg_det_pose.yaml --eval-only \
        MODEL.WEIGHTS output/quick/model_final.pth OUTPUT_DIR output/quick

Several processes train one network: torchrun --nproc-per-node N tools/train_net.py ..., srun, or
--num-gpus N, which on a machine without GPUs needs MODEL.DEVICE cpu (docs/scaling.md).

--config-file takes a path, or the name of a file below configs/. The results of the last evaluation
are in OUTPUT_DIR/results.json.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.config import load_config
from d2_multitask.data.folder_lock import LockHeldError
from d2_multitask.engine import processes
from d2_multitask.engine.model_file import trained_config
from d2_multitask.engine.processes import Run, Work
from d2_multitask.engine.setup import (
    device_of,
    ends_in_a_sentence,
    find_config_file,
    flat,
    setup,
)
from d2_multitask.engine.trainer import MultitaskTrainer, load_for_evaluation
from d2_multitask.version import __version__


def work(args: argparse.Namespace, run: Run) -> dict[str, Any] | None:
    """What one process of the run does."""
    with ends_in_a_sentence():
        with mistakes_without_traceback():
            cfg = config_of(args)
            run.start(device_of(cfg), settings_of(cfg, args))
        return evaluate(args, cfg) if args.eval_only else train(args, cfg)


def config_of(args: argparse.Namespace) -> CfgNode:
    """The config that the command line names; with ``args.model``, of eval, that of the weights."""
    weights = getattr(args, "model", "")
    if weights:
        return trained_config(weights, args.config_file, args.opts)[0]
    return load_config(find_config_file(args.config_file), args.opts)


def settings_of(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    """All that has to be the same in all processes."""
    options = {"--resume": args.resume, "--eval-only": args.eval_only}
    return {**flat(cfg), **options, "d2_multitask": __version__}


def train(args: argparse.Namespace, cfg: CfgNode) -> dict[str, Any] | None:
    """What is done without --eval-only."""
    with mistakes_without_traceback():
        cfg = setup(args, cfg)
        trainer = MultitaskTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
    try:
        return trainer.train()
    except LockHeldError as error:
        sys.exit(f"Error: OUTPUT_DIR {cfg.OUTPUT_DIR}: {error}; wait for it, or set another one")


def evaluate(args: argparse.Namespace, cfg: CfgNode) -> dict[str, Any]:
    """What --eval-only does."""
    with mistakes_without_traceback():
        cfg = setup(args, cfg)
        model = MultitaskTrainer.build_model(cfg)
        load_for_evaluation(cfg, model, resume=args.resume)
        evaluators = [MultitaskTrainer.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
    results = MultitaskTrainer.test(cfg, model, evaluators)
    if comm.is_main_process():
        verify_results(cfg, results)
    check_reports(evaluators)
    return results


def check_reports(evaluators: Sequence[DatasetEvaluator]) -> None:
    """End with exit code 1 where a report is asked for, and none could be written."""
    failed = [reason for one in evaluators if (reason := getattr(one, "failed", ""))]
    if failed:
        sys.exit("Error: " + "; ".join(failed))


@contextlib.contextmanager
def mistakes_without_traceback() -> Iterator[None]:
    """Show a mistake in config, data or weights as its message alone, and stop."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"Error: {error}")


def parse_args(
    arguments: Sequence[str] | None, parser: argparse.ArgumentParser | None = None
) -> argparse.Namespace:
    """Detectron2's arguments; ``None`` = the command line, Detectron2's parser."""
    return (parser or default_argument_parser()).parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; ``None`` = the command line."""
    return start(work, parse_args(arguments))


def start(work_of_one: Work, args: argparse.Namespace) -> int:
    """Do the work in all processes of the run; returns the exit code."""

    def device() -> str:
        with mistakes_without_traceback():
            return config_of(args).MODEL.DEVICE

    return processes.start(work_of_one, args, device)
