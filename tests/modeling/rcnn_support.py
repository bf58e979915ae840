"""A small MultitaskRCNN, and batches for it."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor

from d2_multitask.config import load_config
from d2_multitask.modeling import MultitaskRCNN
from support import labelled_image

DENSE = ["seg", "parts", "boundary", "occlusion", "classification", "foreground"]


def rcnn_config(tasks: list[str] | None = None, *opts: Any, masks=True, joints=True) -> CfgNode:
    """The quick config, narrower still."""
    tasks = ["det", *DENSE] if tasks is None else tasks
    cfg = load_config("quick/mask_rcnn_in_detail.yaml")
    cfg.MODEL.TASKS = tasks
    cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON = (x and "det" in tasks for x in (masks, joints))
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [8]
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 8
    for name in ("PARTS", "BOUNDARY", "OCCLUSION", "CLASSIFICATION", "FOREGROUND"):
        cfg.MODEL[f"{name}_HEAD"].CONV_DIM = 8
    cfg.merge_from_list(list(opts))
    return cfg


def rcnn(*args: Any, **kwargs: Any) -> MultitaskRCNN:
    torch.manual_seed(0)
    return build_model(rcnn_config(*args, **kwargs))


def rcnn_image(seed: int = 0, **kwargs: Any) -> dict[str, Any]:
    return labelled_image(
        96, 80, ((8, 6, 50, 90), (40, 10, 78, 70)), num_keypoints=14, seed=seed, **kwargs
    )


def losses_of(
    model: MultitaskRCNN, batch: list[dict[str, Any]], seed: int = 0
) -> dict[str, Tensor]:
    """Boxes are sampled at random: with the same seed, the same ones."""
    torch.manual_seed(seed)
    with EventStorage():
        return model(batch)
