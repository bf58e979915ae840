"""CenterNet's networks have as many parameters and multiply-adds as the published ones."""

from __future__ import annotations

import centernet_support as public
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from d2_multitask.config import load_config
from d2_multitask.engine.benchmark.counting import count_multiply_adds
from d2_multitask.heads import build_heads


def shell(config_file: str, *overrides: str) -> nn.ModuleDict:
    """The network of a config without memory for its values (the meta device)."""
    cfg = load_config(f"centernet/{config_file}", list(overrides))
    with torch.device("meta"):
        backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, ShapeSpec(channels=3))
    heads = build_heads(cfg, backbone.output_shape()).to("meta")
    return nn.ModuleDict({"backbone": backbone, "heads": heads}).eval()


@pytest.mark.parametrize(
    ("config_file", "network", "heads", "millions"),
    [
        pytest.param("ctdet_r18.yaml", "r18", public.CTDET, 14.4, id="R18"),
        pytest.param("ctdet_r101.yaml", "r101", public.CTDET, 49.7, id="R101"),
        pytest.param("ctdet_dla34_2x.yaml", "dla34", public.CTDET, 19.7, id="DLA-34"),
        pytest.param("multi_pose_dla34_3x.yaml", "dla34", public.MULTI_POSE, 20.1, id="pose"),
        pytest.param("multi_pose_r18.yaml", "r18", public.MULTI_POSE, 14.55, id="R18 pose"),
    ],
)
def test_parameters_and_multiply_adds(config_file, network, heads, millions) -> None:
    model = shell(config_file)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == public.num_parameters(network, heads)
    published = public.num_parameters(network, heads, unread=True)
    assert published / 1e6 == pytest.approx(millions, abs=0.05)
    height, width = 128, 192
    image = torch.empty(1, 3, height, width, device="meta")

    def run() -> None:
        features = model["backbone"](image)
        for head in model["heads"].values():
            head.layers(features)

    assert count_multiply_adds(run) == public.multiply_adds(network, heads, height, width)


@pytest.mark.parametrize(
    ("config_file", "overrides"),
    [
        pytest.param("ctdet_dla34_1x.yaml", ("MODEL.UPSAMPLING.DEFORMABLE", "False"), id="DLA"),
        pytest.param("ctdet_r18.yaml", ("MODEL.UPSAMPLING.DEFORMABLE", "False"), id="R18"),
        pytest.param("ctdet_r18.yaml", ("MODEL.RESNETS.DEPTH", "34"), id="R34"),
        pytest.param("ctdet_r101.yaml", ("MODEL.RESNETS.DEPTH", "50"), id="R50"),
    ],
)
def test_the_feature_that_heads_read(config_file, overrides) -> None:
    backbone = shell(config_file, *overrides)["backbone"]
    feature = backbone(torch.empty(1, 3, 64, 96, device="meta"))["p2"]
    assert feature.shape == (1, 64, 16, 24)
    assert backbone.output_shape()["p2"].channels == 64
    assert backbone.output_shape()["p2"].stride == 4 and backbone.size_divisibility == 32
    assert any("offset_mask" in name for name in backbone.state_dict()) == (
        "DEFORMABLE" not in str(overrides)
    )
