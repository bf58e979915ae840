"""Trains or evaluates a network; the arguments are those of Detectron2's tools/train_net.py.

    d2mt train --config-file quick/mcn_seg_det_pose.yaml OUTPUT_DIR output/quick
    d2mt train --config-file quick/mcn_seg_det_pose.yaml --eval-only \
        MODEL.WEIGHTS output/quick/model_final.pth OUTPUT_DIR output/quick

--config-file takes a path, or the name of a file below configs/. The results of the last evaluation
are in OUTPUT_DIR/results.json.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.data.folder_lock import LockHeldError
from d2_multitask.engine.model_file import trained_config
from d2_multitask.engine.setup import ends_in_a_sentence, setup
from d2_multitask.engine.signals import passed_to_children
from d2_multitask.engine.trainer import MultitaskTrainer, load_for_evaluation


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """One process of the run."""
    with ends_in_a_sentence():
        return evaluate(args) if args.eval_only else train(args)


def train(args: argparse.Namespace) -> dict[str, Any] | None:
    """What is done without --eval-only."""
    with mistakes_without_traceback():
        cfg = setup(args)
        trainer = MultitaskTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
    try:
        return trainer.train()
    except LockHeldError as error:
        sys.exit(f"Error: OUTPUT_DIR {cfg.OUTPUT_DIR}: {error}; wait for it, or set another one")


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """What --eval-only does; with ``args.model``, from the command eval, its weights are meant."""
    with mistakes_without_traceback():
        weights = getattr(args, "model", "")
        cfg = trained_config(weights, args.config_file, args.opts)[0] if weights else None
        cfg = setup(args, cfg)
        model = MultitaskTrainer.build_model(cfg)
        load_for_evaluation(cfg, model, resume=args.resume)
        evaluators = [MultitaskTrainer.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
    results = MultitaskTrainer.test(cfg, model, evaluators)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


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
    """Detectron2's arguments, checked; ``None`` = the command line, Detectron2's parser."""
    parser = parser or default_argument_parser()
    args = parser.parse_args(arguments)
    if args.num_gpus > 1 and args.num_gpus > torch.cuda.device_count():
        parser.error(
            f"--num-gpus {args.num_gpus}: PyTorch finds {torch.cuda.device_count()} CUDA GPUs here"
        )
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; ``None`` = the command line."""
    return start(parse_args(arguments))


def start(args: argparse.Namespace) -> int:
    """Start the processes of the run; returns the exit code."""
    several = args.num_gpus * args.num_machines > 1
    try:
        with passed_to_children() if several else contextlib.nullcontext():
            launch(
                run,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
    except ProcessExitedException as error:  # its process has said why
        return error.exit_code
    return 0
