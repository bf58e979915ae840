"""The networks of the config files, small enough for tests, and batches for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from d2_multitask.config import load_config
from support import REPOSITORY, labelled_image

CONFIGS = REPOSITORY / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def small_config(path: Path) -> CfgNode:
    """The config without weights; where the network is slow, of few channels or blocks."""
    cfg = load_config(path)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.FEATURE_EXTRACTOR.WEIGHTS = ""
    if path.parent.name == "centernet":
        narrow(cfg)
    if cfg.MODEL.BACKBONE.NAME.startswith("build_mae_") and cfg.MODEL.MAE.SIZE != "tiny":
        # All blocks are alike; those of ViT-B take a second each to make.
        cfg.MODEL.MAE.SIZE, cfg.MODEL.MAE.DEPTH = "tiny", 4
    return cfg


def narrow(cfg: CfgNode) -> None:
    """Layer by layer the network of the file, but of few channels: DLA-34 and ResNet-101 are slow.

    At full size they are built in tests/modeling/backbones/test_published_sizes.py.
    """
    cfg.MODEL.DLA.CHANNELS = [4, 4, 8, 8, 8, 8]
    cfg.MODEL.UPSAMPLING.CHANNELS = [8] * len(cfg.MODEL.UPSAMPLING.CHANNELS)
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    for head in ("CENTER_HEAD", "DET_HEAD", "POSE_HEAD"):
        cfg.MODEL[head].CONV_DIM = 8


def batch_for(cfg: CfgNode) -> list[dict[str, Any]]:
    """Two images with all labels, of as many keypoints as the network has."""
    num_keypoints = cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS
    if cfg.MODEL.KEYPOINT_ON:
        num_keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    batch = [labelled_image(64, 96, num_keypoints=num_keypoints, seed=seed) for seed in range(2)]
    if cfg.MODEL.CLASSIFICATION_HEAD.SINGLE_LABEL:
        for number, entry in enumerate(batch):
            classes = torch.arange(cfg.MODEL.CLASSIFICATION_HEAD.NUM_CLASSES)
            entry["image_labels"] = (classes == number).long()
    return batch
