"""WH_SCALE and OFFSET_SCALE: units of the last layer, invisible outside of the head."""

from __future__ import annotations

import pytest
import torch

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import build_heads
from support import TinyBackbone


@pytest.mark.parametrize(
    ("task", "node", "key", "branch"),
    [
        ("det", "DET_HEAD", "WH_SCALE", "wh"),
        ("pose", "POSE_HEAD", "OFFSET_SCALE", "keypoint_offset"),
    ],
)
def test_the_last_layer_is_read_in_units_of_the_scale(
    task: str, node: str, key: str, branch: str
) -> None:
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = [task]
    cfg.MODEL[node][key] = 16.0
    backbone = TinyBackbone()
    head = build_heads(cfg, backbone.output_shape())[task]
    last = getattr(head, branch)[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 1.5)
    predicted = head.layers(backbone(torch.rand(1, 3, 16, 16)))[branch]
    assert predicted.unique().tolist() == [24.0]


def test_published_weights_fit_the_default() -> None:
    cfg = get_multitask_cfg()
    assert cfg.MODEL.DET_HEAD.WH_SCALE == cfg.MODEL.POSE_HEAD.OFFSET_SCALE == 1.0
