#!/usr/bin/env python
"""Prints how hard each loss pulls at the features that all tasks share.

    python tools/loss_gradients.py --config-file quick/mcn_seg_det_pose.yaml \
        MODEL.WEIGHTS output/quick/mcn_seg_det_pose/model_final.pth

The network sees batches of DATASETS.TRAIN as in training, and learns nothing. For each loss, as it
is weighted: its value, the norm of its gradient by the backbone's outputs, that norm's share of
all, and the cosine to the gradient of all others (below 0: they pull in different directions). A
task whose share is small is hardly heard while the others are trained; raise its weight.

Exit code: 0; 2 if something was typed wrong.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence

from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

import d2_multitask  # noqa: F401 (registers data sets and networks)
from d2_multitask.config import load_config
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.loader import build_train_loader
from d2_multitask.engine.setup import fall_back_to_cpu, parse_with_overrides
from d2_multitask.engine.trainer import load_for_evaluation
from studies.loss_gradients import gradient_table, measure_loss_gradients


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name below configs/")
    parser.add_argument("--batches", type=int, default=4, help="how many (default: 4)")
    args = parse_with_overrides(parser, arguments)
    if args.batches < 1:
        parser.error(f"--batches: found {args.batches}, expected >= 1")
    return args


def run(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    fall_back_to_cpu(cfg)
    register_datasets(cfg.DATASETS.REGISTER)
    cfg.freeze()
    seed_all_rng(max(cfg.SEED, 0))
    model = build_model(cfg)
    load_for_evaluation(cfg, model)
    batches = itertools.islice(build_train_loader(cfg), args.batches)
    print(gradient_table(measure_loss_gradients(model.train(), batches)))


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    setup_logger(name="d2_multitask", abbrev_name="d2_multitask")
    try:
        run(args)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
