#!/usr/bin/env python
"""Converts weight files of CenterNet's public code (github.com/xingyizhou/CenterNet).

    python tools/convert_centernet_weights.py ctdet_coco_dla_2x.pth
    python tools/convert_centernet_weights.py multi_pose_dla_3x.pth --output centernet_pose.pth
    python tools/convert_centernet_weights.py ctdet_coco_dla_2x.pth \
        --config-file centernet/mcn_dla34_seg_det_pose.yaml

Prints which network and task the file holds and where each tensor went, writes a checkpoint, and
prints the command that evaluates it. Without --config-file the config is the published network's.
Config overrides may follow as KEY VALUE. MODEL.WEIGHTS also takes CenterNet's files as they are.
Only tensors are read from a file.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.modeling import build_model
from torch import Tensor

from d2_multitask.checkpoint import load_weights, read_checkpoint
from d2_multitask.checkpoint.centernet import DLA_KEY, HEADS, RESNET_KEY
from d2_multitask.checkpoint.reading import DESCRIPTION_KEY
from d2_multitask.config import load_config
from d2_multitask.data.whole_files import whole_file
from d2_multitask.engine.model_file import describe
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

TASKS = {"ctdet": ("hm", "wh", "reg"), "multi_pose": tuple(HEADS)}
# Heads of CenterNet's other tasks, for messages.
_OTHER_TASKS = {"dep": "ddd (boxes in 3D)", "hm_t": "exdet (extreme points)"}

# Blocks of the third stage -> depth, without and with bottlenecks.
_RESNET_DEPTHS = {False: {2: 18, 6: 34}, True: {6: 50, 23: 101, 36: 152}}


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
    parser.add_argument(
        "--output", type=Path, help="default: <file>_d2_multitask.pth in its folder"
    )
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
        # A network with random heads is not ready to be used.
        description = {} if fresh else {DESCRIPTION_KEY: describe(cfg)}
        checkpoint = {"model": model.state_dict(), **description, "__author__": "CenterNet"}
        torch.save(checkpoint, unfinished)
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


class CenterNetFile(NamedTuple):
    """Contents of a file."""

    network: str  # "dla34", "r18", "r34", "r50", "r101" or "r152"
    task: str  # "ctdet" or "multi_pose"
    num_classes: int  # of the centre heatmap


def identify(weights: Mapping[str, Tensor], file: str) -> CenterNetFile:
    """Find which published network and task a file holds.

    Args:
        weights: Name -> tensor, without `module.` prefixes.
        file: For messages.

    Raises:
        ValueError: Another network or task, or heads are missing.
    """
    network = _network(weights, file)
    heads = {name.split(".")[0] for name in weights if re.fullmatch(r"\w+\.[02]\.weight", name)}
    for head, task in _OTHER_TASKS.items():
        if head in heads:
            raise ValueError(
                f"{file} is CenterNet's {task}: found the head {head!r}, expected those of ctdet "
                f"{TASKS['ctdet']} or multi_pose {TASKS['multi_pose']}"
            )
    task = "multi_pose" if heads & {"hps", "hm_hp", "hp_offset"} else "ctdet"
    missing = [name for name in TASKS[task] if f"{name}.2.weight" not in weights]
    if missing:
        raise ValueError(
            f"{file} lacks the heads {missing} of CenterNet's {task}: found {sorted(heads)}; "
            "expected a file of CenterNet's model zoo, whole"
        )
    return CenterNetFile(network, task, weights["hm.2.weight"].shape[0])


def _network(weights: Mapping[str, Tensor], file: str) -> str:
    if DLA_KEY in weights:
        return "dla34"
    if RESNET_KEY in weights:
        bottleneck = "layer1.0.conv3.weight" in weights
        blocks = sum(bool(re.fullmatch(r"layer3\.\d+\.conv1\.weight", name)) for name in weights)
        if blocks in _RESNET_DEPTHS[bottleneck]:
            return f"r{_RESNET_DEPTHS[bottleneck][blocks]}"
    kinds = {
        "pre.0.conv.weight": "CenterNet's Hourglass-104, a network that this package does not have",
        RESNET_KEY: "a part of a ResNet, or one of unknown depth",
        "deconv_layers.0.weight": "a ResNet without deformable convolution (CenterNet's 'res')",
        "base.base_layer.0.weight": "CenterNet's first version of DLA ('dlav0') or a part of DLA",
    }
    found = next((what for key, what in kinds.items() if key in weights), "another network")
    if any(name.startswith("backbone.") for name in weights):
        found = "a checkpoint of Detectron2 or of this package, which needs no conversion"
    raise ValueError(
        f"{file} holds {found}: found, for example, {list(weights)[:3]}; expected the deformable "
        "DLA-34, ResNet-18 or ResNet-101 of CenterNet's model zoo (ctdet_coco_dla_2x.pth, ...)"
    )


def find_config(name: str) -> str:
    """As one types it in the repository."""
    return name if Path(name).is_file() else f"configs/{name}"


if __name__ == "__main__":
    sys.exit(main())
