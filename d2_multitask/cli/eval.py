"""Measures a trained network, or an exported file, on the datasets of its config.

    d2mt eval --model output/demo/model_final.pth
    d2mt eval --model output/demo/model_final.pth DATASETS.TEST "('my_people_val',)"
    d2mt eval --model model_int8.onnx --config-file configs/quick/mcn_seg_det_pose.yaml

Weights have their config inside; --config-file is for those that have none, and for exported files.
These are run as `d2_multitask.runtime` runs them, from the image files on, and measured by the same
evaluators as the network. Other options are those of `d2mt train`. Results are logged and written
to OUTPUT_DIR/results.json, by default in output/eval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.evaluation import DatasetEvaluator

from d2_multitask.cli import train
from d2_multitask.data.io import read_image
from d2_multitask.engine.model_file import trained_config
from d2_multitask.engine.processes import Run
from d2_multitask.engine.results import to_detectron2
from d2_multitask.engine.setup import ends_in_a_sentence, setup
from d2_multitask.engine.trained_model import model_info
from d2_multitask.engine.trainer import MultitaskTrainer
from d2_multitask.loading import EXPORTED_SUFFIXES, load
from d2_multitask.runtime import ModelInfo, Predictor
from d2_multitask.visualization.metadata import cfg_metadata

DEFAULT_OUTPUT = "output/eval"


def parse_args(
    arguments: Sequence[str] | None, opts: Sequence[str] = (), epilog: str | None = __doc__
) -> argparse.Namespace:
    """The command line; ``None`` = the program's. ``opts``: KEY, VALUE, ... before its own."""
    parser = default_argument_parser(epilog=epilog)
    parser.add_argument("--model", required=True, metavar="FILE", help="weights, .onnx or .xml")
    args = train.parse_args(arguments, parser)
    args.eval_only = True
    # A folder named in the config would be the training's.
    args.opts = ["OUTPUT_DIR", DEFAULT_OUTPUT, *opts, *args.opts]
    exported = Path(args.model).suffix.lower() in EXPORTED_SUFFIXES
    if exported and not args.config_file:
        parser.error(f"{args.model} does not say on which datasets: add --config-file FILE")
    args.exported = exported
    return args


def evaluate_exported(args: argparse.Namespace, run: Run) -> None:
    """What one process of the run does with an exported file."""
    with ends_in_a_sentence():
        _evaluate_exported(args, run)


def _evaluate_exported(args: argparse.Namespace, run: Run) -> None:
    with train.mistakes_without_traceback():
        cfg, _ = trained_config("", args.config_file, args.opts)
        # onnxruntime and OpenVINO compute on the processor, whatever MODEL.DEVICE is.
        run.start("cpu", train.settings_of(cfg, args))
        if cfg.TEST.PANOPTIC:
            raise ValueError(
                "TEST.PANOPTIC: found True, expected False for an exported file, which gives no "
                "panoptic_seg: add TEST.PANOPTIC False"
            )
        predictor = load(args.model)
        cfg = setup(args, measured_config(cfg, predictor.info))
        check_fits(predictor.info, cfg, args)
        evaluators = build_evaluators(cfg)
    measure(predictor, cfg, evaluators)
    train.check_reports(evaluators)


def measured_config(cfg: CfgNode, info: ModelInfo) -> CfgNode:
    """A copy for the tasks of an exported file, without what is done to a network in PyTorch."""
    cfg = cfg.clone()
    cfg.TEST.FUSED = cfg.TEST.COMPILED = cfg.TEST.TILES.ENABLED = cfg.TEST.PANOPTIC = False
    cfg.TEST.SCALES = []
    cfg.TEST.TASKS = [task for task in cfg.MODEL.TASKS if task in info.tasks]
    return cfg


def build_evaluators(cfg: CfgNode) -> list[DatasetEvaluator]:
    """One for each dataset of ``DATASETS.TEST``."""
    return [MultitaskTrainer.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]


def measure(
    predictor: Predictor, cfg: CfgNode, evaluators: list[DatasetEvaluator]
) -> dict[str, Any]:
    """Run an exported file on ``DATASETS.TEST``; see `MultitaskTrainer.test`."""
    masks = cfg.MODEL.MASK_ON and {"scores", "sem_seg"} <= predictor.info.outputs.keys()
    return MultitaskTrainer.test(cfg, answer_of(predictor, masks), evaluators)


def answer_of(
    predictor: Predictor, masks: bool
) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """An exported file as a function of dicts with ``file_name``, maybe with instance masks."""

    def answer(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        images = [read_image(entry["file_name"], "BGR") for entry in batch]
        results = predictor.predict_batch(images)
        return [to_detectron2(result.with_masks() if masks else result) for result in results]

    return answer


def check_fits(info: ModelInfo, cfg: CfgNode, args: argparse.Namespace) -> None:
    """Whether a file may be of the config's network.

    Raises:
        ValueError: it has other numbers of classes or keypoints, or none of its tasks.
    """
    expected = model_info(cfg, cfg_metadata(cfg))
    found, wanted = (_numbers(one) for one in (info, expected))
    different = {key: (found.get(key, 0), number) for key, number in wanted.items()}
    wrong = [f"{a} {key}, expected {b}" for key, (a, b) in different.items() if a != b]
    if wrong or not cfg.TEST.TASKS:
        reason = "found " + "; ".join(wrong) if wrong else f"found the tasks {info.tasks}"
        raise ValueError(
            f"{args.model} is not of the network of --config-file {args.config_file}: {reason}"
        )


def _numbers(info: ModelInfo) -> dict[str, int]:
    """What is counted -> how many."""
    numbers = {
        f"classes of {name}": len(classes.class_names) for name, classes in info.maps.items()
    }
    if info.objects is not None:
        numbers["classes"] = len(info.objects.class_names)
        numbers["keypoints"] = len(info.objects.keypoint_names)
    return numbers


def main(
    arguments: Sequence[str] | None = None,
    opts: Sequence[str] = (),
    epilog: str | None = __doc__,
) -> int:
    """Run the command; ``None`` = the command line. For ``opts`` see `parse_args`."""
    args = parse_args(arguments, opts, epilog)
    if not args.exported:
        return train.start(train.work, args)
    return train.start(evaluate_exported, args)
