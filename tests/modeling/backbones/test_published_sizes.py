"""CenterNet's networks have as many parameters and multiply-adds as the published ones."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

import centernet_support as public
from benchmark.counting import count_multiply_adds
from d2_multitask.config import load_config
from d2_multitask.heads import build_heads


def shell(config_file: str, *overrides: str) -> nn.ModuleDict:
    """The network of a config without memory for its values (the meta device)."""
    cfg = load_config(f"centernet/{config_file}", list(overrides))
    with torch.device("meta"):
        backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, ShapeSpec(channels=3))
    heads = build_heads(cfg, backbone.output_shape()).to("meta")
    return nn.ModuleDict({"backbone": backbone, "heads": heads}).eval()


def run(model: nn.ModuleDict, height: int, width: int) -> float:
    """Multiply-adds for one image, all heads included."""
    image = torch.empty(1, 3, height, width, device="meta")

    def forward() -> None:
        features = model["backbone"](image)
        for head in model["heads"].values():
            head.layers(features)

    return count_multiply_adds(forward)


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
    assert run(model, 128, 192) == public.multiply_adds(network, heads, 128, 192)


# Counted on the public code at 512x512, in units of 10^9: the trunk; what joints add.
TRUNKS = {"r18": 11.4, "r50": 24.3, "r101": 43.7, "dla34": 25.5}
HEADS = {64: {"det": 1.8, "pose": 1.9}, 256: {"det": 7.3, "pose": 7.5}}


@pytest.mark.parametrize(
    ("config_file", "overrides", "network", "width"),
    [
        pytest.param("multi_pose_r18.yaml", (), "r18", 64, id="R18"),
        pytest.param("multi_pose_r101.yaml", ("MODEL.RESNETS.DEPTH", "50"), "r50", 64, id="R50"),
        pytest.param("multi_pose_r101.yaml", (), "r101", 64, id="R101"),
        pytest.param("multi_pose_dla34_3x.yaml", (), "dla34", 256, id="DLA-34"),
    ],
)
def test_multiply_adds_of_the_public_code(config_file, overrides, network, width) -> None:
    """One class. Numbers have one decimal; DLA-34 counts two layers that nothing reads."""
    model = shell(config_file, *overrides)
    all_heads = run(model, 512, 512) / 1e9
    del model["heads"]["pose"]
    boxes = run(model, 512, 512) / 1e9
    model["heads"].clear()
    trunk = run(model, 512, 512) / 1e9
    assert trunk == pytest.approx(TRUNKS[network], abs=0.1)
    assert boxes - trunk == pytest.approx(HEADS[width]["det"], abs=0.06)
    assert all_heads - boxes == pytest.approx(HEADS[width]["pose"], abs=0.06)


@pytest.mark.parametrize("deformable", [True, False])
@pytest.mark.parametrize(
    ("config_file", "depth"),
    [
        pytest.param("ctdet_dla34_1x.yaml", None, id="DLA-34"),
        pytest.param("ctdet_r18.yaml", "18", id="R18"),
        pytest.param("ctdet_r18.yaml", "34", id="R34"),
        pytest.param("ctdet_r101.yaml", "50", id="R50"),
        pytest.param("ctdet_r101.yaml", "101", id="R101"),
    ],
)
def test_the_feature_that_heads_read(config_file, depth, deformable) -> None:
    overrides = ["MODEL.UPSAMPLING.DEFORMABLE", str(deformable)]
    overrides += ["MODEL.RESNETS.DEPTH", depth] if depth else []
    backbone = shell(config_file, *overrides)["backbone"]
    feature = backbone(torch.empty(1, 3, 64, 96, device="meta"))["p2"]
    assert feature.shape == (1, 64, 16, 24)
    assert backbone.output_shape()["p2"].channels == 64
    assert backbone.output_shape()["p2"].stride == 4 and backbone.size_divisibility == 32
    assert any("offset_mask" in name for name in backbone.state_dict()) == deformable
