"""Checks a config and its datasets as a training does before its first step, without training.

    d2mt check --config-file mine.yaml
    d2mt check --config-file mine.yaml DATASETS.TRAIN "('my_people',)"
    d2mt check --model output/demo/model_final.pth

Prints what each dataset holds, every mistake (file, field, found, expected), and the counts of what
is wrong with the data but is left out. Single images and masks are read in training only, and what
is wrong with them is counted there. Exit code: 0; 1 if a training would stop with an error; 2 if
the config cannot be read; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.loader import build_train_loader
from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.engine.model_file import trained_config
from d2_multitask.engine.setup import fall_back_to_cpu, parse_with_overrides
from d2_multitask.engine.solver import build_optimizer
from d2_multitask.evaluation.build import build_evaluator
from d2_multitask.exits import exit_code

logger = logging.getLogger("d2_multitask.check")


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ``None`` = the program's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", help="path, or name below configs/")
    parser.add_argument("--model", default="", metavar="FILE", help="weights with a config inside")
    args = parse_with_overrides(parser, arguments)
    if not args.config_file and not args.model:
        parser.error("nothing to check: give --config-file FILE or --model FILE")
    return args


def parts(cfg: CfgNode, folder: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is checked, and the function that raises ValueError for a mistake."""
    yield "MODEL and SOLVER", lambda: build_optimizer(cfg, build_model(cfg))
    yield "DATASETS.TRAIN", lambda: build_train_loader(cfg)
    for name in cfg.DATASETS.TEST:
        yield f"DATASETS.TEST, {name}", lambda name=name: build_evaluator(cfg, name, folder)


def run(args: argparse.Namespace) -> int:
    """Check all parts, also those after a mistake."""
    cfg, _ = trained_config(args.model, args.config_file, args.opts)
    fall_back_to_cpu(cfg)
    register_datasets(cfg.DATASETS.REGISTER)
    cfg.freeze()
    mistakes = []
    with tempfile.TemporaryDirectory() as folder:
        for part, check in parts(cfg, folder):
            try:
                check()
            except (ValueError, OSError) as error:
                mistakes.append(f"{part}: {error}")
    DATA_REPORT.log_totals()
    for mistake in mistakes:
        print(f"Error: {mistake}")
    print(f"{len(mistakes)} mistakes" if mistakes else "A training can start.")
    return int(bool(mistakes))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; ``None`` = the command line."""
    args = parse_args(arguments)
    setup_logger(name="d2_multitask", abbrev_name="d2mt")
    return exit_code(lambda: run(args))
