"""Measures a network as `d2mt eval` does, and writes a page that shows its errors.

    d2mt report --model output/demo/model_final.pth
    d2mt report --model model_int8.onnx --config-file configs/quick/mcn_seg_det_pose.yaml
    d2mt report --results coco_instances_results.json --config-file mine.yaml

The report is OUTPUT_DIR/report.html (one file, all pictures inside) and report.md, by default in
output/eval. Options are those of `d2mt eval`, which writes the same with TEST.REPORT True. With
--results no network runs: the objects that an earlier evaluation, or any other program, has written
as COCO's results are measured on the dataset of DATASETS.TEST.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from d2_multitask.cli import eval as evaluation
from d2_multitask.cli.train import check_reports
from d2_multitask.config import load_config
from d2_multitask.engine.setup import find_config_file, setup
from d2_multitask.engine.trainer import MultitaskTrainer
from d2_multitask.evaluation.results import format_results, write_results
from d2_multitask.exits import exit_code
from d2_multitask.launchers import place_of

OPTIONS = ["TEST.REPORT", "True"]


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line with --results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", required=True, metavar="FILE", help="COCO's results, JSON")
    parser.add_argument("--config-file", required=True, help="path, or name below configs/")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    return parser.parse_args(arguments)


def of_results(args: argparse.Namespace) -> int:
    """Measure the file."""
    if place_of() is not None:
        raise ValueError("--results: found several processes, expected one")
    options = ["OUTPUT_DIR", evaluation.DEFAULT_OUTPUT, *OPTIONS, *args.opts]
    cfg = setup(args, load_config(find_config_file(args.config_file), options))
    if len(cfg.DATASETS.TEST) != 1:
        raise ValueError(f"DATASETS.TEST: found {list(cfg.DATASETS.TEST)}, expected one dataset")
    try:
        with open(args.results, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, list):
            raise ValueError(f"found a {type(found).__name__}, expected COCO's list of results")
        evaluators = MultitaskTrainer.build_evaluator(cfg, cfg.DATASETS.TEST[0])
        results = evaluators.of_results(found)
    except ValueError as error:  # of JSON, too
        raise ValueError(f"{args.results}: {error}") from None
    write_results(results, cfg.OUTPUT_DIR)
    print(format_results(results))
    check_reports([evaluators])
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; ``None`` = the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if any(word.split("=")[0] == "--results" for word in words):
        args = parse_args(words)
        return exit_code(lambda: of_results(args))
    return evaluation.main(words, OPTIONS, __doc__)
