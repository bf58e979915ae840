"""The config keys of our own backbones; ResNet and the neck use Detectron2's keys."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_backbone_config(cfg: CfgNode) -> None:
    """Add the nodes that our builders read: FEATURE_EXTRACTOR, DLA, UPSAMPLING, MOVENET, VIT...

    Args:
        cfg: The config to extend, in place.
    """
    node = CfgNode()
    # "torchvision/<name>" or "timm/<name>", because both libraries use some of the same names.
    node.NAME = "torchvision/mobilenet_v2"
    # File with the network's own weights under its own key names (for example ImageNet weights);
    # "" = none. Not read when MODEL.WEIGHTS is set, since that initialises the whole model.
    node.WEIGHTS = ""
    # Let the library download its default weights. False, so that training works offline.
    node.PRETRAINED = False
    # From scratch: factor on the initial weights of convolutions without bias, which a norm
    # follows. The norm keeps the outputs the same; but the steps of Adam, whose size is the
    # learning rate, become larger relative to the weights. The initial weights of depthwise
    # convolutions are several times those of a ResNet, so a short schedule hardly changes them.
    node.INIT_SCALE = 1.0
    # torchvision only: nodes of strides 4, 8, ... to read. [] = the last block at each stride, so
    # that all weights are used. MobileNetV2 without its last layer, 1280 channels made
    # for the classifier, is lighter: ["features.3", "features.6", "features.13", "features.17"].
    node.OUT_NODES = []
    cfg.MODEL.FEATURE_EXTRACTOR = node

    # Read by `build_dla_up_backbone`.
    cfg.MODEL.DLA = CfgNode()
    # Channels at the strides 1, 2, 4, 8, 16, 32: DLA-34. Fewer make a small network of its shape;
    # the third number is the width of the feature that heads read.
    cfg.MODEL.DLA.CHANNELS = [16, 32, 64, 128, 256, 512]

    # How CenterNet's networks are up-sampled to stride 4: `build_dla_up_backbone` and
    # `build_resnet_up_backbone`.
    cfg.MODEL.UPSAMPLING = CfgNode()
    # Deformable convolution, as in all published weights; False is several times faster on CPUs
    # (docs/centernet.md).
    cfg.MODEL.UPSAMPLING.DEFORMABLE = True
    # ResNet only: channels after each up-convolution, from stride 32 to 4.
    cfg.MODEL.UPSAMPLING.CHANNELS = [256, 128, 64]
    cfg.MODEL.UPSAMPLING.NORM = "BN"

    # Read by `build_movenet_backbone`.
    cfg.MODEL.MOVENET = CfgNode()
    # The published weights have no statistics of batches: "FrozenBN" is exact, "" leaves biases
    # alone, "GN" or "BN" are for training from scratch.
    cfg.MODEL.MOVENET.NORM = "FrozenBN"
    # "p2", "p3", "p4" of the pyramid, "res2" to "res5" of its MobileNetV2.
    cfg.MODEL.MOVENET.OUT_FEATURES = ["p2"]
    _add_vit_config(cfg)
    _add_mae_backbone_config(cfg)


def _add_vit_config(cfg: CfgNode) -> None:
    """Keys of a ViT backbone, in addition to MODEL.MAE."""
    cfg.MODEL.VIT = node = CfgNode()
    # Side of the windows that attention is limited to, in patches; 0 = every block sees the whole
    # image. ViTDet has 14 for 64 x 64 patches; up to about 32 x 32 patches, windows save nothing,
    # because the last row and column of windows are padded.
    node.WINDOW_SIZE = 0
    # Blocks (from 0) that see the whole image all the same; [] = the last of each quarter.
    node.GLOBAL_BLOCKS = []
    # Decomposed relative positions, learned from zero; ViTDet has them. They cost the memory that
    # scaled-dot-product attention saves.
    node.USE_REL_POS = False
    # (height, width) that those of the global blocks are stored for.
    node.REL_POS_IMAGE_SIZE = (1024, 1024)
    # Stochastic depth of the last block, growing linearly from 0. ViTDet: 0.1 base, 0.4 large.
    node.DROP_PATH = 0.0
    # MAE's norm after the last block. False for Detectron2's ViTDet checkpoints, which have none.
    node.FINAL_NORM = True
    # Compute blocks again in the backward pass: memory of one block instead of all, a third more
    # time.
    node.ACTIVATION_CHECKPOINTING = False
    # 0 = everything is learned; k = patches, positions and the first k blocks stay as they are.
    node.FREEZE_BLOCKS = 0
    # Levels of the pyramid to compute: an R-CNN reads all, MCN reads p2 alone. Their width and
    # norm are MODEL.FPN.OUT_CHANNELS and NORM ("LN" is ViTDet's).
    node.LEVELS = ["p2", "p3", "p4", "p5", "p6"]


def _add_mae_backbone_config(cfg: CfgNode) -> None:
    """Keys of a masked autoencoder with task heads, in addition to MODEL.MAE."""
    cfg.MODEL.MAE_BACKBONE = node = CfgNode()
    # True = only the heads (and a decoder) are learned.
    node.FREEZE_ENCODER = False
    # The decoder starts: False = from the weight file, and files without a decoder are refused;
    # True = from random weights.
    node.FRESH_DECODER = False
    # Stochastic depth of the encoder's last block, growing linearly from 0. MAE's fine-tuning: 0.1
    # base, 0.2 large, 0.3 huge.
    node.DROP_PATH = 0.0
    # Weight of loss_reconstruction where "reconstruction" is one of MODEL.TASKS.
    node.RECONSTRUCTION_WEIGHT = 1.0
