"""Every key that the package adds to Detectron2's config, and safe reading of YAML files."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence

import yaml
from detectron2.config import CfgNode, get_cfg

# Importing the packages registers what their keys configure.
from d2_multitask.data.from_config import add_data_config
from d2_multitask.evaluation.pascal_in_detail.config import add_pascal_in_detail_config
from d2_multitask.heads import TASK_HEAD_REGISTRY
from d2_multitask.model_configs import get_config_file
from d2_multitask.modeling import add_backbone_config, add_mae_config, add_rcnn_config


def add_multitask_config(cfg: CfgNode) -> None:
    """Add our keys, with their defaults, to a Detectron2 config; nothing of Detectron2's is
    changed.

    Each head, the backbones and the data side declare their own keys; here are those that belong to
    no single one of them.

    Args:
        cfg: a config from ``detectron2.config.get_cfg()``; changed in place.
    """
    # Which heads the network has: names of TASK_HEAD_REGISTRY. Heads that these rest on come along.
    cfg.MODEL.TASKS = ["seg", "det", "pose"]
    # Which of them run at inference; empty = all. Heads that nobody asked for cost nothing.
    cfg.TEST.TASKS = []
    # Who computes COCO's AP: "pycocotools", "hotcoco" (the same numbers, many times faster) or
    # "auto", hotcoco where it is installed.
    cfg.TEST.COCO_BACKEND = "auto"
    # Besides AP, COCO's average recall of boxes and masks without regard to classes: for detectors
    # whose training labels are segments that have no class.
    cfg.TEST.CLASS_AGNOSTIC_RECALL = False
    # Memory order (N, H, W, C): the same numbers, and convolutions are faster on CPUs and on GPUs
    # with half precision.
    cfg.MODEL.CHANNELS_LAST = True
    # Evaluation and prediction run a copy with batch norms folded into their convolutions and with
    # sizes and offsets computed at the found centres only: the same answers, sooner.
    cfg.TEST.FUSED = True
    # Besides, run that copy's backbone and heads through torch.compile. It takes a C++ compiler and
    # a minute per input size before the first answer: for many images of one size.
    cfg.TEST.COMPILED = False
    cfg.TEST.FOREGROUND = CfgNode()
    # Before the metrics of binary segmentation, stretch each image's probabilities to 0..1, as
    # PySODMetrics and its Matlab forerunners do by default. False measures what was predicted.
    cfg.TEST.FOREGROUND.STRETCH = False
    _add_tiles_config(cfg)
    for _, head in TASK_HEAD_REGISTRY:
        head.add_config(cfg)
    add_backbone_config(cfg)
    add_rcnn_config(cfg)
    add_mae_config(cfg)
    add_data_config(cfg)
    add_pascal_in_detail_config(cfg)
    _add_solver_config(cfg)


def _add_tiles_config(cfg: CfgNode) -> None:
    cfg.TEST.TILES = CfgNode()
    # Run the network on overlapping tiles of images that are larger than a tile, after
    # INPUT.RESIZE_TEST, and blend the answers. For tasks that answer for every pixel.
    cfg.TEST.TILES.ENABLED = False
    # (height, width) of a tile: the size of the training crops.
    cfg.TEST.TILES.SIZE = (224, 224)
    # Share of a tile that it has in common with its neighbour, at least.
    cfg.TEST.TILES.OVERLAP = 0.25
    # Tiles that run at once.
    cfg.TEST.TILES.BATCH_SIZE = 8


def _add_solver_config(cfg: CfgNode) -> None:
    # "SGD" (Detectron2's), "ADAM" (CenterNet's) or "ADAMW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Decay rates of Adam's and AdamW's two averages; MAE's pre-training has (0.9, 0.95).
    cfg.SOLVER.BETAS = (0.9, 0.999)
    # For vision transformers: the last block learns at this share of the rate, the one before it at
    # this share of that, and so on down to the patches. 1 = all at the same rate.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # In deformable convolutions, what predicts the offsets learns at this share of the rate. 1 is
    # CenterNet's; "Deformable ConvNets v2" has 0.1. A step moves hundreds of weights the same way:
    # at ten times CenterNet's rate, offsets leave the map in a few steps.
    cfg.SOLVER.OFFSET_LR_FACTOR = 1.0
    # Parameters without weight decay, by the last part of their names (norms and biases have keys
    # of their own: WEIGHT_DECAY_NORM, WEIGHT_DECAY_BIAS).
    cfg.SOLVER.UNDECAYED_PARAMETERS = ["pos_embed", "cls_token", "mask_token"]
    # Exponential moving average of the weights; the average is what is evaluated.
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.999
    # Iterations between two progress lines.
    cfg.SOLVER.LOG_PERIOD = 20


def get_multitask_cfg() -> CfgNode:
    """Detectron2's default config with our keys."""
    cfg = get_cfg()
    add_multitask_config(cfg)
    return cfg


def load_config(config_file: str | os.PathLike[str] = "", opts: Sequence[str] = ()) -> CfgNode:
    """Defaults, then a YAML file, then ``KEY VALUE`` pairs. The result is not frozen.

    Args:
        config_file: a path, or the name of a file that comes with the package, such as
            ``quick/mcn_seg_det_pose.yaml``; empty = defaults only.
        opts: ``["KEY", "VALUE", ...]``.

    Returns:
        The config.

    Raises:
        ValueError: no such file, broken or unsafe YAML, an unknown key (with the nearest known
            ones), a value of the wrong type.
    """
    cfg = get_multitask_cfg()
    if config_file:
        path = os.fspath(config_file)
        if not os.path.isfile(path):
            path = get_config_file(path)
        try:
            # Detectron2's default would run code that a YAML file asks for.
            cfg.merge_from_file(path, allow_unsafe=False)
        except KeyError as error:
            raise ValueError(_unknown_key(cfg, error, path)) from None
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not a plain YAML file: {error}") from None
        except (ValueError, AssertionError) as error:
            raise ValueError(f"{path}: {error}") from None
    _merge_opts(cfg, list(opts))
    return cfg


def _merge_opts(cfg: CfgNode, opts: list[str]) -> None:
    if len(opts) % 2:
        raise ValueError(
            f"command line: found {len(opts)} words of overrides ({' '.join(opts)}), expected "
            "KEY VALUE pairs"
        )
    known = set(_known_keys(cfg))
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        if key not in known:
            raise ValueError(f"command line: {_suggest(key, known)}")
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError) as error:
            raise ValueError(f"command line: {key} {value}: {error}") from None


def _unknown_key(cfg: CfgNode, error: KeyError, path: str) -> str:
    match = re.search(r"config key: (\S+?)['\"]?$", str(error))
    if match is None:
        return f"{path}: {error}"
    return f"{path}: {_suggest(match.group(1), set(_known_keys(cfg)))}"


def _suggest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"found the unknown config key {key}{hint}"


def _known_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += _known_keys(value, f"{prefix}{name}.")
    return keys
