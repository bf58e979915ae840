"""Backbones whose finest output has stride 4; importing the package registers all of them.

A backbone is a feature network ("bottom up": `res2`..`res5`, strides 4 to 32) and a neck that
brings its features to stride 4 (`p2`). One file per family; `MODEL.BACKBONE.NAME` chooses the
builder:

- `resnet.py`: `build_resnet_fpn_stride4_backbone`, Detectron2's ResNet; the neck;
- `feature_extractor.py`: `build_feature_fpn_stride4_backbone`, any torchvision or timm network;
- `centernet.py`: `build_dla_up_backbone`, `build_resnet_up_backbone`, CenterNet's own networks;
- `movenet.py`: `build_movenet_backbone`, MobileNetV2 and the pyramid of MoveNet MultiPose;
- `vit.py`: `build_mae_vit_backbone`, `build_mae_vit_fpn_backbone`, the encoder of a masked
  autoencoder, alone and with Detectron2's simple feature pyramid (`p2`..`p6`);
- `mae.py`: `build_mae_encoder_backbone`, `build_mae_decoder_backbone`, the autoencoder itself.

Detectron2's own FPN builders work too; they also compute levels that are not used here.
"""

from __future__ import annotations

from d2_multitask.modeling.backbones.centernet import DLA, DeformableConv2d, DLAUp, ResNetUp
from d2_multitask.modeling.backbones.config import add_backbone_config
from d2_multitask.modeling.backbones.feature_extractor import (
    FeatureExtractor,
    build_feature_extractor,
)
from d2_multitask.modeling.backbones.mae import MAEBackbone
from d2_multitask.modeling.backbones.movenet import MoveNet
from d2_multitask.modeling.backbones.resnet import StrideFourFPN
from d2_multitask.modeling.backbones.vit import MAEFeaturePyramid, MAEViT

__all__ = [
    "DLA",
    "DLAUp",
    "DeformableConv2d",
    "FeatureExtractor",
    "MAEBackbone",
    "MAEFeaturePyramid",
    "MAEViT",
    "MoveNet",
    "ResNetUp",
    "StrideFourFPN",
    "add_backbone_config",
    "build_feature_extractor",
]
