"""Backbones whose finest output has stride 4; importing the package registers all of them.

A backbone is a feature network ("bottom up": `res2`..`res5`, strides 4 to 32) and a neck that
brings its features to stride 4 (`p2`). One file per family, each with one registered builder,
chosen by `MODEL.BACKBONE.NAME`:

- `resnet.py`: `build_resnet_fpn_stride4_backbone`, Detectron2's ResNet;
- `feature_extractor.py`: `build_feature_fpn_stride4_backbone`, any torchvision or timm network;
- `dla_up.py`: `build_dla_up_backbone`, CenterNet's DLA-34 (`dla.py`) with its own up-sampling;
- `resnet_up.py`: `build_resnet_up_backbone`, CenterNet's ResNets with up-convolutions;
- `vit.py`, `vit_fpn.py`: `build_mae_vit_backbone`, `build_mae_vit_fpn_backbone`, the encoder of a
  masked autoencoder, alone and with Detectron2's simple feature pyramid (`p2`..`p6`);
- `mae.py`: `build_mae_encoder_backbone`, `build_mae_decoder_backbone`, the autoencoder itself.

Detectron2's own FPN builders work too; they also compute the levels that nobody reads here.
"""

from __future__ import annotations

from d2_multitask.modeling.backbones.config import add_backbone_config
from d2_multitask.modeling.backbones.deformable import DeformableConv2d
from d2_multitask.modeling.backbones.dla import DLA
from d2_multitask.modeling.backbones.dla_up import DLAUp, build_dla_up_backbone
from d2_multitask.modeling.backbones.feature_extractor import (
    FeatureExtractor,
    build_feature_extractor,
    build_feature_fpn_stride4_backbone,
)
from d2_multitask.modeling.backbones.fpn import StrideFourFPN, build_stride_four_fpn
from d2_multitask.modeling.backbones.mae import (
    MAEBackbone,
    build_mae_decoder_backbone,
    build_mae_encoder_backbone,
)
from d2_multitask.modeling.backbones.resnet import build_resnet_fpn_stride4_backbone
from d2_multitask.modeling.backbones.resnet_up import ResNetUp, build_resnet_up_backbone
from d2_multitask.modeling.backbones.vit import MAEViT, build_mae_vit_backbone
from d2_multitask.modeling.backbones.vit_fpn import MAEFeaturePyramid, build_mae_vit_fpn_backbone

__all__ = [
    "DLA",
    "DLAUp",
    "DeformableConv2d",
    "FeatureExtractor",
    "MAEBackbone",
    "MAEFeaturePyramid",
    "MAEViT",
    "ResNetUp",
    "StrideFourFPN",
    "add_backbone_config",
    "build_dla_up_backbone",
    "build_feature_extractor",
    "build_feature_fpn_stride4_backbone",
    "build_mae_decoder_backbone",
    "build_mae_encoder_backbone",
    "build_mae_vit_backbone",
    "build_mae_vit_fpn_backbone",
    "build_resnet_fpn_stride4_backbone",
    "build_resnet_up_backbone",
    "build_stride_four_fpn",
]
