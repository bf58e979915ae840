"""Checks a config and its datasets before hours of training.

    d2mt check --config-file mine.yaml
    d2mt check --config-file mine.yaml --json findings.json DATASETS.TRAIN "('my_people',)"
    d2mt check --model output/demo/model_final.pth

Builds what a training builds before its first step (network, optimizer, loaders, evaluators), and
looks at the data: boxes, masks, joints, images, maps, balance. Every finding says what was found
and expected, the first examples, and what to type to mend it; docs/check.md lists all of them.

Exit code: 0; 1 if a training would stop, or learn or measure the wrong thing (an error; with
--strict also for warnings); 2 if the config cannot be read; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger
from torch import nn

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.loader import build_train_loader
from d2_multitask.doctor import counted, examine
from d2_multitask.doctor.findings import (
    ERROR,
    NOTE,
    SEVERITIES,
    Finding,
    sentence,
    summary,
    write_json,
)
from d2_multitask.engine.balancing import build_balancer
from d2_multitask.engine.best import best_metric, check_counts
from d2_multitask.engine.loggers import check_loggers
from d2_multitask.engine.model_file import trained_config
from d2_multitask.engine.setup import fall_back_to_cpu, parse_with_overrides
from d2_multitask.engine.solver import build_optimizer
from d2_multitask.engine.teachers import add_teachers
from d2_multitask.evaluation.build import build_evaluator
from d2_multitask.exits import exit_code

_FINEST_STRIDE = 4  # of the networks of this package, where one cannot be built


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ``None`` = the program's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", help="path, or name below configs/")
    parser.add_argument("--model", default="", metavar="FILE", help="weights with a config inside")
    parser.add_argument("--json", default="", metavar="FILE", help="write the findings here too")
    parser.add_argument("--strict", action="store_true", help="exit code 1 for warnings too")
    args = parse_with_overrides(parser, arguments)
    if not args.config_file and not args.model:
        parser.error("nothing to check: give --config-file FILE or --model FILE")
    return args


def parts(cfg: CfgNode, folder: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is built, and the function that raises ValueError for a mistake."""
    built: list[DatasetEvaluator] = []
    yield "SOLVER", lambda: check_counts(cfg)
    yield "LOGGERS", lambda: check_loggers(cfg)
    yield "DATASETS.TRAIN", lambda: build_train_loader(cfg)
    for name in cfg.DATASETS.TEST:
        yield (
            f"DATASETS.TEST, {name}",
            lambda name=name: built.append(build_evaluator(cfg, name, folder)),
        )
    if cfg.TEST.BEST_METRIC or cfg.SOLVER.PATIENCE > 0:
        yield "best checkpoint", lambda: best_metric(cfg).check(cfg.DATASETS.TEST, built)


def network(cfg: CfgNode, findings: list[Finding]) -> int:
    """Build network and optimizer; the stride of the finest features, in pixels."""
    try:
        model = build_model(cfg)
        add_teachers(cfg, model)
        build_balancer(cfg, model)
        build_optimizer(cfg, model)
    except (ValueError, OSError) as error:
        findings.append(Finding(ERROR, "start", "MODEL and SOLVER", str(error)))
        return _FINEST_STRIDE
    return _finest_stride(model)


def _finest_stride(model: nn.Module) -> int:
    backbone = getattr(model, "backbone", None)
    shapes = backbone.output_shape().values() if hasattr(backbone, "output_shape") else ()
    return min((shape.stride for shape in shapes if shape.stride), default=_FINEST_STRIDE)


def run(args: argparse.Namespace) -> int:
    """Build and examine everything, also after a mistake."""
    if args.json and Path(args.json).is_dir():
        raise ValueError(f"--json: found the folder {args.json}, expected a file")
    cfg, _ = trained_config(args.model, args.config_file, args.opts)
    fall_back_to_cpu(cfg)
    register_datasets(cfg.DATASETS.REGISTER)
    cfg.freeze()
    findings: list[Finding] = []
    examined = examine(cfg, network(cfg, findings))
    known = {finding.text for finding in examined}
    with tempfile.TemporaryDirectory() as folder:
        for part, check in parts(cfg, folder):
            try:
                check()
            except Exception as error:  # also of a function in DatasetCatalog
                if sentence(error) not in known:
                    findings.append(Finding(ERROR, "start", part, sentence(error)))
    findings = [*findings, *counted(), *examined]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    for finding in findings:
        print(finding)
    if args.json:
        write_json(args.json, findings)
    severities = {finding.severity for finding in findings}
    fails = bool(severities - {NOTE}) if args.strict else ERROR in severities
    print(f"{summary(findings)}.", "" if ERROR in severities else "A training can start.")
    return int(fails)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; ``None`` = the command line."""
    args = parse_args(arguments)
    setup_logger(name="d2_multitask", abbrev_name="d2mt")
    return exit_code(lambda: run(args))
