"""Networks whose batch norms do something, for the tests of `modeling/inference`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import build_heads
from d2_multitask.modeling import MultitaskCenterNet
from support import TinyBackbone


def randomise_norms(model: nn.Module) -> nn.Module:
    """Statistics and affine parameters that a fresh network does not have: all 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if hasattr(module, "running_var"):
            for name in ("weight", "bias", "running_mean"):
                value = getattr(module, name).data
                value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
            module.weight.data += 1
            variance = torch.rand(module.running_var.shape, generator=generator) + 0.5
            module.running_var.copy_(variance)
    return model


def network(tasks: list[str], norm: str = "", **options: Any) -> MultitaskCenterNet:
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = tasks
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.MODEL.SEM_SEG_HEAD.NORM = cfg.MODEL.CENTER_HEAD.NORM = norm
    for head in ("CENTER_HEAD", "DET_HEAD", "POSE_HEAD"):
        cfg.MODEL[head].CONV_DIM = 8
    backbone = TinyBackbone()
    model = MultitaskCenterNet(
        backbone=backbone,
        heads=build_heads(cfg, backbone.output_shape()),
        pixel_mean=[100.0, 110.0, 120.0],
        pixel_std=[50.0, 55.0, 60.0],
        **options,
    )
    # Fresh last layers have weights next to zero; sizes and keypoints should differ between cells.
    for name, parameter in model.named_parameters():
        if name.startswith("heads.") and parameter.dim() == 4:
            torch.nn.init.normal_(parameter, std=0.1)
        elif name == "heads.det.wh.1.bias":
            torch.nn.init.constant_(parameter, 4.0)  # empty boxes would be left out
    return randomise_norms(model)
