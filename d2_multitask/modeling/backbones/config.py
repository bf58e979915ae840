"""The config keys of our own backbones; ResNet and the neck use Detectron2's keys."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_backbone_config(cfg: CfgNode) -> None:
    """Add `MODEL.FEATURE_EXTRACTOR`, read by `build_feature_fpn_stride4_backbone`.

    Args:
        cfg: The config to extend, in place.
    """
    node = CfgNode()
    # "torchvision/<name>" or "timm/<name>", because both libraries use some of the same names.
    node.NAME = "torchvision/mobilenet_v2"
    # File with the network's own weights under its own key names (for example ImageNet weights);
    # "" = none. Not read when MODEL.WEIGHTS is set, since that initialises the whole model.
    node.WEIGHTS = ""
    # Let the library download its default weights. False, because training must not need a network.
    node.PRETRAINED = False
    # torchvision only: nodes of strides 4, 8, ... to read. [] = the last block at each stride, so
    # that all weights are used. MobileNetV2 without its last layer, 1280 channels made
    # for the classifier, is lighter: ["features.3", "features.6", "features.13", "features.17"].
    node.OUT_NODES = []
    # Number of levels, from the finest, whose layers are fixed: 1 = all up to stride 4, 2 = up to
    # stride 8, ... 0, because fixing layers without pretrained weights fixes noise.
    node.FREEZE_AT = 0
    # Fix the statistics and affine parameters of all batch norms: for batches of a few images.
    node.FREEZE_NORM = False
    cfg.MODEL.FEATURE_EXTRACTOR = node
