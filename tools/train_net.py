#!/usr/bin/env python
"""Trains or evaluates a network; the arguments are those of Detectron2's tools/train_net.py.

    python tools/train_net.py --config-file quick/mcn_seg_det_pose.yaml OUTPUT_DIR output/quick
    python tools/train_net.py --config-file quick/mcn_seg_det_pose.yaml --eval-only \
        MODEL.WEIGHTS output/quick/model_final.pth OUTPUT_DIR output/quick

--config-file takes a path, or the name of a file below configs/. The results of the last evaluation
are in OUTPUT_DIR/results.json.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm

import d2_multitask  # noqa: F401 (registers data sets and networks)
from d2_multitask.engine.setup import setup
from d2_multitask.engine.trainer import MultitaskTrainer, load_for_evaluation


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """One process of the run."""
    cfg = setup(args)
    if args.eval_only:
        model = MultitaskTrainer.build_model(cfg)
        load_for_evaluation(cfg, model, resume=args.resume)
        results = MultitaskTrainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = MultitaskTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Detectron2's arguments, checked."""
    parser = default_argument_parser()
    args = parser.parse_args(arguments)
    if args.num_gpus > 1 and args.num_gpus > torch.cuda.device_count():
        parser.error(
            f"--num-gpus {args.num_gpus}: PyTorch finds {torch.cuda.device_count()} CUDA GPUs here"
        )
    return args


def run(args: argparse.Namespace) -> None:
    """Start the processes of this machine."""
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    try:
        run(parse_args())
    except ValueError as error:
        sys.exit(f"Error: {error}")
