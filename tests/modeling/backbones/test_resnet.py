"""Detectron2's ResNet, its narrow variants, and the neck of which only p2 is computed."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone, build_backbone
from detectron2.modeling.backbone.fpn import FPN
from detectron2.structures import ImageList
from torch import nn

from d2_multitask.modeling.backbones import StrideFourFPN

ALL = ["res2", "res3", "res4", "res5"]


class Pyramid(Backbone):
    """One strided convolution a level; strides and channels as told."""

    def __init__(self, strides=(4, 8, 16, 32), divisibility=0):
        super().__init__()
        self._shapes = {}
        self.convs = nn.ModuleList()
        for level, stride in enumerate(strides):
            channels = 4 + level
            self._shapes[f"res{level + 2}"] = ShapeSpec(channels=channels, stride=stride)
            self.convs.append(nn.Conv2d(3, channels, stride, stride=stride))
        self._divisibility = divisibility

    @property
    def size_divisibility(self):
        return self._divisibility

    def output_shape(self):
        return self._shapes

    def forward(self, x):
        return {name: conv(x) for name, conv in zip(self._shapes, self.convs, strict=True)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("norm", ["", "BN", "GN"])
@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
@pytest.mark.parametrize("in_features", [ALL, ALL[:3], ALL[:1]], ids=len)
def test_p2_is_that_of_the_whole_pyramid(norm, fuse_type, in_features):
    whole = FPN(Pyramid(), in_features, 32, norm=norm, fuse_type=fuse_type)
    ours = StrideFourFPN(Pyramid(), in_features, 32, norm=norm, fuse_type=fuse_type)
    found = ours.load_state_dict(whole.state_dict(), strict=False)
    assert found.missing_keys == []
    assert {key.split(".")[0] for key in found.unexpected_keys} == {
        f"fpn_output{level}" for level in range(3, 2 + len(in_features))
    }
    image = torch.rand(2, 3, 64, 96)
    features = ours(image)
    assert list(features) == ["p2"]
    torch.testing.assert_close(features["p2"], whole(image)["p2"], rtol=0, atol=1e-6)
    assert features["p2"].shape == (2, 32, 16, 24)


def test_shapes_and_padding():
    neck = StrideFourFPN(Pyramid(), ALL, 16)
    assert neck.output_shape() == {"p2": ShapeSpec(channels=16, stride=4)}
    assert neck.size_divisibility == 32
    images = ImageList.from_tensors(
        [torch.zeros(3, 33, 50)],
        neck.size_divisibility,
        padding_constraints=neck.padding_constraints,
    )
    assert images.tensor.shape == (1, 3, 64, 64)
    assert StrideFourFPN(Pyramid(), ALL[:2], 16).size_divisibility == 8
    assert StrideFourFPN(Pyramid(divisibility=32), ALL[:2], 16).size_divisibility == 32


def test_every_parameter_gets_a_gradient():
    neck = StrideFourFPN(Pyramid(), ALL, 8)
    neck(torch.rand(1, 3, 64, 64))["p2"].square().sum().backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())
    assert not any("fpn_output3" in name for name, _ in neck.named_modules())


def test_a_copy_has_its_own_weights():
    neck = StrideFourFPN(Pyramid(), ALL, 8)
    image = torch.rand(1, 3, 64, 64)
    before = neck(image)["p2"]
    averaged = copy.deepcopy(neck)
    for parameter in averaged.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(neck(image)["p2"], before)
    assert averaged(image)["p2"].abs().max() == 0


def test_compiles_without_a_graph_break():
    neck = StrideFourFPN(Pyramid(), ALL, 8).eval()
    image = torch.rand(1, 3, 64, 64)
    compiled = torch.compile(neck, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image)["p2"], neck(image)["p2"])


@pytest.mark.parametrize(
    ("strides", "in_features", "message"),
    [
        pytest.param((8, 16, 32), ["res2", "res3", "res4"], r"\[8, 16, 32\]", id="finest-is-8"),
        pytest.param((2, 4, 8), ["res2", "res3", "res4"], r"\[2, 4, 8\]", id="finest-is-2"),
        pytest.param((4, 16), ["res2", "res3"], r"\[4, 16\]", id="gap"),
        pytest.param((4, 8), ["res3", "res2"], r"\[8, 4\]", id="wrong-order"),
        pytest.param((4, 8), [], r"strides \[\]", id="none"),
        pytest.param((4, 8), ["res2", "res7"], r"names \['res7'\].*'res2', 'res3'", id="unknown"),
    ],
)
def test_other_strides_are_refused(strides, in_features, message):
    with pytest.raises(ValueError, match=message):
        StrideFourFPN(Pyramid(strides), in_features, 8)


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
