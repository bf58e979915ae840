"""Batch norms disappear and no answer changes; what cannot be folded stays."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from d2_multitask.config import load_config
from d2_multitask.modeling.inference import fold_norms
from fusion_support import randomise_norms


class Network(nn.Module):
    """What a meta-architecture looks like to ``fold_norms``."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


def network_of(*overrides: str) -> Network:
    torch.manual_seed(0)
    cfg = load_config("quick/mcn_seg_det_pose.yaml", list(overrides))
    return Network(randomise_norms(build_backbone(cfg))).eval()


DLA_UP = (
    *("MODEL.BACKBONE.NAME", "build_dla_up_backbone"),
    *("MODEL.DLA.CHANNELS", "[2,4,6,8,10,12]", "MODEL.UPSAMPLING.DEFORMABLE"),
)
RESNET_UP = (
    *("MODEL.BACKBONE.NAME", "build_resnet_up_backbone", "MODEL.RESNETS.OUT_FEATURES", "['res5']"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.UPSAMPLING.CHANNELS", "[12,8,8]"),
    "MODEL.UPSAMPLING.DEFORMABLE",
)
FEATURE_FPN = (
    *("MODEL.BACKBONE.NAME", "build_feature_fpn_stride4_backbone"),
    *("MODEL.FPN.IN_FEATURES", "[]", "MODEL.FEATURE_EXTRACTOR.NAME"),
)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("MODEL.RESNETS.RES2_OUT_CHANNELS", "8"), id="resnet"),
        pytest.param(
            ("MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.NORM", "FrozenBN"), id="frozen"
        ),
        pytest.param(
            (
                *("MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.NORM", "SyncBN"),
                *("MODEL.FPN.NORM", "SyncBN"),
            ),
            id="sync",
        ),
        pytest.param((*FEATURE_FPN, "torchvision/mobilenet_v2"), id="torchvision"),
        pytest.param((*FEATURE_FPN, "timm/mobilenetv3_small_050"), id="timm"),
        pytest.param((*DLA_UP, "True"), id="dla-deformable"),
        pytest.param((*DLA_UP, "False"), id="dla"),
        pytest.param((*RESNET_UP, "True"), id="resnet-up-deformable"),
        pytest.param((*RESNET_UP, "False"), id="resnet-up"),
    ],
)
def test_no_norm_is_left_and_no_answer_changes(overrides: tuple[str, ...]) -> None:
    model = network_of(*overrides)
    image = torch.randn(1, 3, 64, 96)
    num_norms = sum(hasattr(module, "running_var") for module in model.modules())
    with torch.no_grad():
        before = model.backbone(image)["p2"]
        assert fold_norms(model) == num_norms > 0
        after = model.backbone(image)["p2"]
    assert not any(hasattr(module, "running_var") for module in model.modules())
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


def test_a_known_convolution() -> None:
    """w' = w g / s and b' = (b - m) g / s + c, by hand: 3 * 2 / 2 = 3, (1 - 4) * 2 / 2 + 5 = 2."""
    conv = Conv2d(1, 1, 1, norm=get_norm("FrozenBN", 1))
    conv.norm.eps = 0.0
    for tensor, value in (
        (conv.weight.data, 3.0),
        (conv.bias.data, 1.0),
        (conv.norm.weight, 2.0),
        (conv.norm.bias, 5.0),
        (conv.norm.running_mean, 4.0),
        (conv.norm.running_var, 4.0),
    ):
        tensor.fill_(value)
    assert fold_norms(nn.Sequential(conv).eval()) == 1
    assert conv.norm is None
    assert conv.weight.item() == pytest.approx(3.0) and conv.bias.item() == pytest.approx(2.0)


def test_norms_in_training_mode_and_other_norms_stay() -> None:
    layers = [Conv2d(32, 32, 1, norm=get_norm(name, 32)) for name in ("BN", "GN")]
    model = nn.Sequential(*layers)
    assert fold_norms(model.train()) == 0
    assert fold_norms(model.eval()) == 1
    assert isinstance(layers[1].norm, nn.GroupNorm)


def test_the_memory_order_stays() -> None:
    conv = Conv2d(4, 8, 3, norm=get_norm("BN", 8)).to(memory_format=torch.channels_last).eval()
    fold_norms(nn.Sequential(conv))
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


class ReadTwice(nn.Module):
    """The convolution's own output is used beside the norm's: folding would change it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.conv(x)
        return {"p2": self.norm(y) + y}


class SharedNorm(nn.Module):
    """One norm after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"p2": self.norm(self.one(x)) + self.norm(self.two(x))}


@pytest.mark.parametrize("backbone", [ReadTwice, SharedNorm])
def test_what_would_change_is_left_as_it_is(backbone: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = Network(randomise_norms(backbone())).eval()
    image = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        before = model.backbone(image)["p2"]
        assert fold_norms(model) == 0
        torch.testing.assert_close(model.backbone(image)["p2"], before, rtol=0, atol=0)
