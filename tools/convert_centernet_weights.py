#!/usr/bin/env python
"""Converts weight files of CenterNet's public code (github.com/xingyizhou/CenterNet).

    python tools/convert_centernet_weights.py ctdet_coco_dla_2x.pth
    python tools/convert_centernet_weights.py multi_pose_dla_3x.pth --output centernet_pose.pth
    python tools/convert_centernet_weights.py ctdet_coco_dla_2x.pth \
        --config-file centernet/mcn_dla34_seg_det_pose.yaml

Says which network and task the file holds and which tensor went where, writes a checkpoint, and
prints the command that evaluates it. Without --config-file the config is the published network's.
Config overrides may follow as KEY VALUE. MODEL.WEIGHTS also takes CenterNet's files as they are.
Only tensors are read from a file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.modeling import build_model

from d2_multitask.checkpoint import load_weights, read_checkpoint
from d2_multitask.checkpoint.centernet import CenterNetFile, identify
from d2_multitask.config import load_config
from d2_multitask.data.whole_files import whole_file
from d2_multitask.engine.setup import parse_with_overrides

# (network, task) -> config of the published network.
CONFIGS = {
    ("dla34", "ctdet"): "centernet/ctdet_dla34_2x.yaml",
    ("dla34", "multi_pose"): "centernet/multi_pose_dla34_3x.yaml",
    ("r18", "ctdet"): "centernet/ctdet_r18.yaml",
    ("r18", "multi_pose"): "centernet/multi_pose_r18.yaml",
    ("r101", "ctdet"): "centernet/ctdet_r101.yaml",
    ("r101", "multi_pose"): "centernet/multi_pose_r101.yaml",
}
COCO_CLASSES = 80


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        convert(args)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="a .pth file of CenterNet's model zoo")
    parser.add_argument("--output", type=Path, help="default: <file>_d2_multitask.pth beside it")
    parser.add_argument("--config-file", help="the network to convert for")
    return parse_with_overrides(parser, arguments)


def convert(args: argparse.Namespace) -> None:
    path = str(args.file)
    content = identify(read_checkpoint(path)["model"], path)
    config_file = args.config_file or config_of(content, path)
    cfg = load_config(config_file, args.opts)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    print(
        f"{path}: CenterNet's {content.network}, {content.task}, {content.num_classes} classes\n"
        f"Network: {config_file}"
    )
    model = build_model(cfg)
    report = load_weights(model, path)
    print(report)
    if report.mismatched:
        raise ValueError(
            f"{path} does not fit {config_file}: {'; '.join(map(str, report.mismatched[:3]))}; "
            "nothing is written. Expected a config with the file's classes, keypoints and widths"
        )
    fresh = [name for name in report.fresh if not name.endswith("num_batches_tracked")]
    lost = [name for name in fresh if name.startswith("backbone.")]
    if lost:
        raise ValueError(
            f"{path} lacks {len(lost)} tensors of its network, for example those that are called "
            f"{lost[:3]} here; nothing is written. Expected a file of CenterNet's model zoo, whole"
        )
    output = args.output or args.file.with_name(f"{args.file.stem}_d2_multitask.pth")
    with whole_file(output) as unfinished:
        torch.save({"model": model.state_dict(), "__author__": "CenterNet"}, unfinished)
    print(f"\nWritten: {output}")
    command = f"python tools/train_net.py --config-file {find_config(config_file)}"
    if fresh:
        heads = sorted({".".join(name.split(".")[:2]) for name in fresh})
        print(
            f"{len(fresh)} tensors have fresh, random values ({', '.join(heads)}), so it is a "
            f"network to train:\n    {command} MODEL.WEIGHTS {output}"
        )
    else:
        print(f"Evaluate it:\n    {command} --eval-only MODEL.WEIGHTS {output}")


def config_of(content: CenterNetFile, path: str) -> str:
    """The published network's config.

    Raises:
        ValueError: this package has no such config.
    """
    key = (content.network, content.task)
    expected = COCO_CLASSES if content.task == "ctdet" else 1
    if key not in CONFIGS or content.num_classes != expected:
        raise ValueError(
            f"{path} holds {content.network}, {content.task} of {content.num_classes} classes, for "
            "which there is no published config: name one with --config-file, its "
            "MODEL.CENTER_HEAD.NUM_CLASSES (and MODEL.RESNETS) as in the file"
        )
    return CONFIGS[key]


def find_config(name: str) -> str:
    """As one types it in the repository."""
    return name if Path(name).is_file() else f"configs/{name}"


if __name__ == "__main__":
    sys.exit(main())
