"""The config keys of our own backbones; ResNet and the neck use Detectron2's keys."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_backbone_config(cfg: CfgNode) -> None:
    """Add the nodes that our builders read: FEATURE_EXTRACTOR, DLA and UPSAMPLING.

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

    # Read by `build_dla_up_backbone`.
    cfg.MODEL.DLA = CfgNode()
    # Channels at the strides 1, 2, 4, 8, 16, 32: DLA-34. Fewer make a small network of its shape;
    # the third number is the width of the feature that heads read.
    cfg.MODEL.DLA.CHANNELS = [16, 32, 64, 128, 256, 512]

    # How CenterNet's networks come back to stride 4: `build_dla_up_backbone` and
    # `build_resnet_up_backbone`.
    cfg.MODEL.UPSAMPLING = CfgNode()
    # Deformable convolution, as in all published weights; False is several times faster on CPUs.
    cfg.MODEL.UPSAMPLING.DEFORMABLE = True
    # ResNet only: channels after each up-convolution, from stride 32 to 4.
    cfg.MODEL.UPSAMPLING.CHANNELS = [256, 128, 64]
    cfg.MODEL.UPSAMPLING.NORM = "BN"
