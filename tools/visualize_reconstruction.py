#!/usr/bin/env python
"""Draws images, their visible patches, a masked autoencoder's reconstruction and its error.

    python tools/visualize_reconstruction.py --config-file quick/mae_pretrain.yaml \
        --output output/mae.png MODEL.WEIGHTS output/quick/mae_pretrain/model_final.pth

Images are the first of DATASETS.TEST, or --input: files and folders. The masks are those of the
evaluation (TEST.RECONSTRUCTION).

Exit code: 0; 2 if something was typed wrong; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.config import load_config
from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.folders import ImageFolder
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.mapper import MultitaskDatasetMapper
from d2_multitask.engine.setup import fall_back_to_cpu
from d2_multitask.engine.trainer import load_for_evaluation
from d2_multitask.exits import exit_code
from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.visualization.training import draw_reconstructions


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name below configs/")
    parser.add_argument("--input", nargs="+", type=Path, help="images and folders of images")
    parser.add_argument("--num-images", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("output/reconstruction.png"))
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    args = parser.parse_args(arguments)
    if args.num_images < 1:
        parser.error(f"--num-images: found {args.num_images}, expected >= 1")
    if not cv2.haveImageWriter(str(args.output)):
        parser.error(f"--output: found {args.output}, expected a .png or .jpg file")
    return args


def chosen_dicts(cfg: CfgNode, inputs: Sequence[Path] | None, count: int) -> list[dict[str, Any]]:
    if inputs:
        dicts = []
        for path in inputs:
            one = [{"file_name": str(path)}]
            dicts += ImageFolder("--input", str(path))() if path.is_dir() else one
        return dicts[:count]
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST: found nothing, expected a dataset (or use --input)")
    return load_dataset(cfg.DATASETS.TEST[0])[:count]


def run(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    fall_back_to_cpu(cfg)
    register_datasets(cfg.DATASETS.REGISTER)
    cfg.freeze()
    dicts = chosen_dicts(cfg, args.input, args.num_images)
    model = build_model(cfg).eval()
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE: found {cfg.MODEL.META_ARCHITECTURE!r}, expected "
            "'MaskedAutoencoder'"
        )
    load_for_evaluation(cfg, model)
    mapper = MultitaskDatasetMapper(cfg, False)
    batch = [mapper(dataset_dict) for dataset_dict in dicts]
    sheet = draw_reconstructions(batch, model(batch), input_format=cfg.INPUT.FORMAT)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(args.output), sheet[..., ::-1]):
        raise ValueError(f"{args.output}: cannot be written; expected a .png or .jpg file")
    print(f"{len(batch)} images: {args.output}")


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    setup_logger(name="d2_multitask", abbrev_name="d2_multitask")
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
