"""DLA's parameters, and what reaches the feature that heads read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from d2_multitask.modeling.backbones.centernet import DLA, DLAUp, IterativeAggregation

NARROW = (2, 4, 6, 8, 10, 12)


def test_parameters_have_the_public_names() -> None:
    state = DLA().state_dict()
    assert len(state) == 222
    assert state["level3.tree2.root.conv.weight"].shape == (128, 128 + 128 + 64 + 128, 1, 1)
    assert not any(name.startswith(("level3.project", "fc")) for name in state)


def test_aggregation_by_hand() -> None:
    """With layers that pass on: the last map is the sum of all, interpolated."""
    layer = IterativeAggregation([1, 1, 1], 1, [2, 4], deformable=False).eval()
    for conv in (*layer.projections, *layer.nodes):
        nn.init.zeros_(conv.weight)
        conv.weight.data[:, :, 1, 1] = 1
    maps = [torch.full((1, 1, 16 // f, 16 // f), v) for f, v in ((1, 1.0), (2, 10.0), (4, 100.0))]
    first, second, third = layer(maps)
    assert first is maps[0]
    # Away from the borders, where the interpolation fades into the padding.
    assert second[0, 0, 8, 8].item() == pytest.approx(11, rel=1e-3)
    assert third[0, 0, 8, 8].item() == pytest.approx(111, rel=1e-3)


@pytest.mark.parametrize("deformable", [False, True])
def test_every_parameter_learns(deformable: bool) -> None:
    torch.manual_seed(0)
    backbone = DLAUp(DLA(channels=NARROW), deformable=deformable)
    p2 = backbone(torch.randn(2, 3, 64, 96))["p2"]
    assert p2.shape == (2, 6, 16, 24)
    p2.square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_wrong_number_of_channels() -> None:
    with pytest.raises(ValueError, match=r"MODEL.DLA.CHANNELS: found \[1, 2\].*6 numbers"):
        DLA(channels=[1, 2])
