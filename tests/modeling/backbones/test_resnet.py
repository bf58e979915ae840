"""Detectron2's ResNet at stride 4, and its narrow variants."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone

import d2_multitask.modeling.backbones  # noqa: F401 (registers the builders)


def resnet_config(depth, width, neck=16, norm="BN"):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_stride4_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = width
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = min(width, 64)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = neck
    return cfg


@pytest.mark.parametrize(
    ("depth", "width", "res5_channels"),
    [
        pytest.param(18, 64, 512, id="r18"),
        pytest.param(18, 16, 128, id="r18-narrow"),
        pytest.param(18, 24, 192, id="r18-other-width"),
        pytest.param(34, 8, 64, id="r34-narrow"),
        pytest.param(50, 256, 2048, id="r50"),
        pytest.param(101, 256, 2048, id="r101"),
    ],
)
def test_builds(depth, width, res5_channels):
    with torch.device("meta"):  # shapes without the time to draw 40 million random numbers
        backbone = build_backbone(resnet_config(depth, width))
        features = backbone(torch.zeros(1, 3, 64, 96))
    assert backbone.output_shape() == {"p2": ShapeSpec(channels=16, stride=4)}
    assert features["p2"].shape == (1, 16, 16, 24)
    assert backbone.bottom_up.output_shape()["res5"].channels == res5_channels


def test_narrow_network_has_the_names_of_the_wide_one():
    with torch.device("meta"):
        narrow = build_backbone(resnet_config(18, 16)).state_dict()
        wide = build_backbone(resnet_config(18, 64)).state_dict()
    assert list(narrow) == list(wide)
    assert narrow["bottom_up.res3.0.shortcut.weight"].shape == (32, 16, 1, 1)


@pytest.mark.parametrize(("depth", "width"), [(18, 16), (18, 64), (50, 256)])
def test_whole_pyramid_is_detectron2s(depth, width):
    cfg = resnet_config(depth, width)
    cfg.MODEL.BACKBONE.NAME = "build_narrow_resnet_fpn_backbone"
    with torch.device("meta"):
        own = build_backbone(cfg)
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth == 18 else width
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
        theirs = build_backbone(cfg)
        features = own(torch.zeros(1, 3, 64, 96))
    assert list(own.state_dict()) == list(theirs.state_dict())
    assert own.output_shape() == theirs.output_shape()
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]
    assert features["p6"].shape == (1, 16, 1, 2)


def test_narrow_network_freezes_like_the_wide_one():
    cfg = resnet_config(18, 8)
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    bottom_up = build_backbone(cfg).bottom_up
    trainable = {name.split(".")[0] for name, p in bottom_up.named_parameters() if p.requires_grad}
    assert trainable == {"res3", "res4", "res5"}
    assert isinstance(bottom_up.stem.conv1.norm, FrozenBatchNorm2d)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        # Detectron2's default width, which somebody who sets only the depth gets
        pytest.param("RES2_OUT_CHANNELS", 256, "RES2_OUT_CHANNELS 256", id="too-wide"),
        pytest.param("RES5_DILATION", 2, "RES5_DILATION 2", id="dilated"),
        pytest.param("DEFORM_ON_PER_STAGE", [True] * 4, "DEFORM_ON_PER_STAGE", id="deformable"),
        pytest.param("OUT_FEATURES", ["res3", "res4", "res5"], "res2", id="no-stride-4"),
    ],
)
def test_bad_config(key, value, message):
    cfg = resnet_config(18, 16)
    cfg.MODEL.RESNETS[key] = value
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)


def test_default_features_are_all():
    cfg = resnet_config(18, 8)
    cfg.MODEL.FPN.IN_FEATURES = []
    assert build_backbone(cfg).in_features == ("res2", "res3", "res4", "res5")
