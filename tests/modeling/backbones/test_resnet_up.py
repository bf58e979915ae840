"""ResNet with up-convolutions: what the config makes of it."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_backbone

from d2_multitask.config import load_config

NARROW = ("MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8")


@pytest.mark.parametrize("deformable", ["True", "False"])
def test_stride_four_and_every_parameter_learns(deformable: str) -> None:
    overrides = [*NARROW, "MODEL.UPSAMPLING.CHANNELS", "[12,10,6]"]
    overrides += ["MODEL.UPSAMPLING.DEFORMABLE", deformable, "MODEL.DEVICE", "cpu"]
    backbone = build_backbone(load_config("centernet/ctdet_r18.yaml", overrides))
    p2 = backbone(torch.randn(2, 3, 64, 96))["p2"]
    assert p2.shape == (2, 6, 16, 24)
    p2.square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_too_few_up_convolutions() -> None:
    cfg = load_config("centernet/ctdet_r18.yaml", [*NARROW, "MODEL.UPSAMPLING.CHANNELS", "[12,10]"])
    with pytest.raises(ValueError, match=r"UPSAMPLING.CHANNELS: found \[12, 10\].*stride 32 to 8"):
        build_backbone(cfg)
