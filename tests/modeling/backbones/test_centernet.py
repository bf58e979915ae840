"""CenterNet's networks; the deformable convolution against bilinear sampling by hand."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from detectron2.modeling import build_backbone
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from d2_multitask.config import load_config
from d2_multitask.modeling.backbones import DeformableConv2d, centernet
from d2_multitask.modeling.backbones.centernet import (
    DLA,
    DLAUp,
    IterativeAggregation,
    bilinear_kernel,
    sampled_convolution,
)


def read_between(channel: Tensor, y: float, x: float) -> float:
    """Bilinear value of a map at (y, x), cells at integers, 0 outside."""
    y0, x0 = math.floor(y), math.floor(x)
    total = 0.0
    for row in (y0, y0 + 1):
        for column in (x0, x0 + 1):
            if 0 <= row < channel.shape[0] and 0 <= column < channel.shape[1]:
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                total += share * float(channel[row, column])
    return total


def slow_deformable(x: Tensor, predicted: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Cell by cell, neighbour by neighbour; ``predicted`` (27, h, w) as CenterNet orders it."""
    channels, height, width = x.shape
    result = bias[:, None, None].repeat(1, height, width)
    for y in range(height):
        for x_cell in range(width):
            for k in range(9):
                shift_y, shift_x = predicted[2 * k : 2 * k + 2, y, x_cell].tolist()
                trust = 1 / (1 + math.exp(-float(predicted[18 + k, y, x_cell])))
                place = y + k // 3 - 1 + shift_y, x_cell + k % 3 - 1 + shift_x
                for channel in range(channels):
                    value = trust * read_between(x[channel], *place)
                    result[:, y, x_cell] += weight[:, channel, k // 3, k % 3] * value
    return result


def random_layer(in_channels: int = 2, out_channels: int = 3) -> DeformableConv2d:
    torch.manual_seed(0)
    layer = DeformableConv2d(in_channels, out_channels)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.mark.parametrize("recorded", [False, True])
def test_equals_sampling_by_hand(recorded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On processors our own parts answer; in what is traced or exported, torchvision's operator."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: recorded)
    operator = mock.Mock(wraps=deform_conv2d)
    monkeypatch.setattr(centernet, "deform_conv2d", operator)
    layer, x = random_layer(), torch.randn(2, 2, 4, 5)
    with torch.no_grad():
        predicted = layer.conv_offset_mask(x)
        assert predicted[:, :18].abs().max() > 1.5  # some places lie far away and outside
        expected = [
            slow_deformable(*both, layer.weight, layer.bias)
            for both in zip(x, predicted, strict=True)
        ]
    with torch.no_grad():
        result = layer(x)
    assert operator.called == recorded
    torch.testing.assert_close(result, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_gradients_equal_those_of_torchvisions_operator() -> None:
    torch.manual_seed(0)
    shapes = ((2, 3, 5, 4), (2, 18, 5, 4), (2, 9, 5, 4), (6, 3, 3, 3), (6,))
    x, offset, mask, weight, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    everything = (x, offset, mask, weight, bias)
    ours = sampled_convolution(*everything)
    theirs = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(ours)
    for mine, reference in zip(
        torch.autograd.grad(ours, everything, direction),
        torch.autograd.grad(theirs, everything, direction),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference)


def test_a_fresh_layer_is_half_a_plain_convolution() -> None:
    layer, x = DeformableConv2d(3, 4), torch.randn(2, 3, 5, 6)
    expected = torch.nn.functional.conv2d(x, layer.weight / 2, padding=1)
    torch.testing.assert_close(layer(x), expected)


def test_autocast_and_memory_order_change_little_and_gradients_reach_everything() -> None:
    layer, x = random_layer(), torch.randn(1, 2, 8, 8)
    expected = layer(x)
    ordered = layer(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(ordered, expected)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.bfloat16
    half.float().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize(
    ("size", "profile"),
    [
        (4, [0.25, 0.75, 0.75, 0.25]),
        (8, [0.125, 0.375, 0.625, 0.875] + [0.875, 0.625, 0.375, 0.125]),
    ],
)
def test_linear_interpolation(size: int, profile: list[float]) -> None:
    expected = torch.tensor(profile)[:, None] * torch.tensor(profile)
    torch.testing.assert_close(bilinear_kernel(size), expected)


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


NARROW_RESNET = ("MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8")


@pytest.mark.parametrize("deformable", ["True", "False"])
def test_stride_four_and_every_parameter_learns(deformable: str) -> None:
    overrides = [*NARROW_RESNET, "MODEL.UPSAMPLING.CHANNELS", "[12,10,6]"]
    overrides += ["MODEL.UPSAMPLING.DEFORMABLE", deformable, "MODEL.DEVICE", "cpu"]
    backbone = build_backbone(load_config("centernet/ctdet_r18.yaml", overrides))
    p2 = backbone(torch.randn(2, 3, 64, 96))["p2"]
    assert p2.shape == (2, 6, 16, 24)
    p2.square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_too_few_up_convolutions() -> None:
    cfg = load_config(
        "centernet/ctdet_r18.yaml", [*NARROW_RESNET, "MODEL.UPSAMPLING.CHANNELS", "[12,10]"]
    )
    with pytest.raises(ValueError, match=r"UPSAMPLING.CHANNELS: found \[12, 10\].*stride 32 to 8"):
        build_backbone(cfg)
