"""Small networks with the names of the real one, and files of weights for them."""

from __future__ import annotations

import pickle

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from d2_multitask.checkpoint import MultitaskCheckpointer
from d2_multitask.modeling.backbones import add_backbone_config

EXTRACTOR = "build_feature_fpn_stride4_backbone"


class Network(nn.Module):
    """A backbone and a head, with the names of the real network."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict({"box": nn.Conv2d(4, 2, 1)})


def config(builder="build_resnet_fpn_stride4_backbone", width=8, neck=8, norm="FrozenBN"):
    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = width
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = width
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = neck
    return cfg


def network(**keys):
    return Network(build_backbone(config(**keys), ShapeSpec(channels=3)))


def randomised(state):
    """The same names and shapes with random values; running variances stay positive."""
    return {
        name: torch.rand(value.shape) if value.is_floating_point() else value + 3
        for name, value in state.items()
    }


def copied(state):
    return {name: value.clone() for name, value in state.items()}


def save_torch(path, content):
    torch.save(content, path)
    return str(path)


def save_pickle(path, weights, **more):
    arrays = {name: value.numpy() for name, value in weights.items()}
    path.write_bytes(pickle.dumps({"model": arrays, **more} if more else arrays))
    return str(path)


def load(model, path, **keys):
    checkpointer = MultitaskCheckpointer(model, **keys)
    checkpointer.load(path)
    return checkpointer.report
