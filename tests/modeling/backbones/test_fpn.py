"""The neck: same p2 and same names as Detectron2's whole pyramid, without what p2 does not need."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
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
