"""CenterNet's public networks as a list of layers: an independent description, from which follow
the names and shapes in their files, their parameters and their multiply-adds.

Written from the description of the networks, not from this package's modules: names of the public
files, convolutions with the stride at which they are computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CTDET = {"hm": 80, "wh": 2, "reg": 2}
MULTI_POSE = {"hm": 1, "wh": 2, "hps": 34, "reg": 2, "hm_hp": 17, "hp_offset": 2}
# Layers of the files that no answer of the network depends on.
DEAD = ("base.fc.", "base.level3.project.", "base.level4.project.")


@dataclass(frozen=True)
class Layer:
    """A convolution; ``stride`` is where its output is, for transposed ones where its input is."""

    name: str
    shape: tuple[int, int, int, int]
    stride: int
    bias: bool = False

    @property
    def num_parameters(self) -> int:
        return math.prod(self.shape) + (self.shape[0] if self.bias else 0)

    def multiply_adds(self, height: int, width: int) -> int:
        return math.prod(self.shape) * (height // self.stride) * (width // self.stride)


def network_layers(
    network: str, heads: dict[str, int]
) -> tuple[list[Layer], list[tuple[str, int]]]:
    """(convolutions, (name, channels) of batch norms) of "dla34", "r18" or "r101"."""
    convs: list[Layer] = []
    norms: list[tuple[str, int]] = []

    def conv(name: str, i: int, o: int, k: int, stride: int, bias: bool = False) -> None:
        convs.append(Layer(name, (o, i, k, k), stride, bias))

    def norm(name: str, channels: int) -> None:
        norms.append((name, channels))

    def deformable(name: str, i: int, o: int, stride: int) -> None:
        conv(name, i, o, 3, stride, bias=True)
        conv(f"{name}.conv_offset_mask", i, 27, 3, stride, bias=True)

    (_dla if network == "dla34" else _resnet)(network, conv, norm, deformable)
    width = 256 if network == "dla34" else 64
    for head, channels in heads.items():
        conv(f"{head}.0", 64, width, 3, 4, bias=True)
        conv(f"{head}.2", width, channels, 1, 4, bias=True)
    return convs, norms


def _dla(network, conv, norm, deformable) -> None:
    def conv_norm(name, i, o, k, stride, norm_name) -> None:
        conv(name, i, o, k, stride)
        norm(norm_name, o)

    def block(name, i, o, stride) -> None:
        conv_norm(f"{name}.conv1", i, o, 3, stride, f"{name}.bn1")
        conv_norm(f"{name}.conv2", o, o, 3, stride, f"{name}.bn2")

    def leaf(name, i, o, stride, root_in) -> None:
        block(f"{name}.tree1", i, o, stride)
        block(f"{name}.tree2", o, o, stride)
        conv_norm(f"{name}.root.conv", root_in, o, 1, stride, f"{name}.root.bn")
        if i != o:
            conv_norm(f"{name}.project.0", i, o, 1, stride, f"{name}.project.1")

    conv_norm("base.base_layer.0", 3, 16, 7, 1, "base.base_layer.1")
    conv_norm("base.level0.0", 16, 16, 3, 1, "base.level0.1")
    conv_norm("base.level1.0", 16, 32, 3, 2, "base.level1.1")
    leaf("base.level2", 32, 64, 4, 128)
    for level, i, o in ((3, 64, 128), (4, 128, 256)):
        name, stride = f"base.level{level}", 2**level
        leaf(f"{name}.tree1", i, o, stride, 2 * o)
        leaf(f"{name}.tree2", o, o, stride, 3 * o + i)
        conv_norm(f"{name}.project.0", i, o, 1, stride, f"{name}.project.1")
    leaf("base.level5", 256, 512, 32, 1024 + 256)
    conv("base.fc", 512, 1000, 1, 32, bias=True)

    def step(name, place, i, o, stride, factor) -> None:
        """Project at ``stride``, up-sample by ``factor``, merge."""
        deformable(f"{name}.proj_{place}.conv", i, o, stride)
        norm(f"{name}.proj_{place}.actf.0", o)
        conv(f"{name}.up_{place}", 1, o, 2 * factor, stride)  # depthwise
        deformable(f"{name}.node_{place}.conv", o, o, stride // factor)
        norm(f"{name}.node_{place}.actf.0", o)

    step("dla_up.ida_0", 1, 512, 256, 32, 2)
    step("dla_up.ida_1", 1, 256, 128, 16, 2)
    step("dla_up.ida_1", 2, 256, 128, 16, 2)
    for place in (1, 2, 3):
        step("dla_up.ida_2", place, 128, 64, 8, 2)
    step("ida_up", 1, 128, 64, 8, 2)
    step("ida_up", 2, 256, 64, 16, 4)


def _resnet(network, conv, norm, deformable) -> None:
    blocks, expansion = {"r18": ((2, 2, 2, 2), 1), "r101": ((3, 4, 23, 3), 4)}[network]
    conv("conv1", 3, 64, 7, 2)
    norm("bn1", 64)
    channels = 64
    for stage, count in enumerate(blocks):
        width, stride = 64 * 2**stage, 4 * 2**stage
        for index in range(count):
            name = f"layer{stage + 1}.{index}"
            before = stride // 2 if index == 0 and stage else stride
            # (in, out, kernel, stride at the output)
            plan = [(channels, width, 3, stride), (width, width, 3, stride)]
            if expansion == 4:
                plan = [
                    (channels, width, 1, before),
                    (width, width, 3, stride),
                    (width, 4 * width, 1, stride),
                ]
            for number, layer in enumerate(plan, start=1):
                conv(f"{name}.conv{number}", *layer)
                norm(f"{name}.bn{number}", layer[1])
            if index == 0 and channels != expansion * width:
                conv(f"{name}.downsample.0", channels, expansion * width, 1, stride)
                norm(f"{name}.downsample.1", expansion * width)
            channels = expansion * width
    for index, width in enumerate((256, 128, 64)):
        stride, first = 32 // 2**index, 6 * index
        deformable(f"deconv_layers.{first}", channels, width, stride)
        norm(f"deconv_layers.{first + 1}", width)
        conv(f"deconv_layers.{first + 3}", width, width, 4, stride)
        norm(f"deconv_layers.{first + 4}", width)
        channels = width


def num_parameters(network: str, heads: dict[str, int], unread: bool = False) -> int:
    """Of the published network without its classifier.

    Args:
        network: "dla34", "r18" or "r101".
        heads: :data:`CTDET` or :data:`MULTI_POSE`.
        unread: with the projections that no answer depends on, as published numbers count.
    """
    convs, norms = network_layers(network, heads)

    def counts(name: str) -> bool:
        return not is_dead(name) or (unread and not name.startswith("base.fc"))

    return sum(layer.num_parameters for layer in convs if counts(layer.name)) + sum(
        2 * channels for name, channels in norms if counts(name)
    )


def is_dead(name: str) -> bool:
    """Whether no answer depends on a layer, or on a tensor of it."""
    return f"{name}.".startswith(DEAD)


def multiply_adds(network: str, heads: dict[str, int], height: int, width: int) -> int:
    """Of the convolutions, deformable ones without their interpolation; likewise."""
    convs, _ = network_layers(network, heads)
    return sum(layer.multiply_adds(height, width) for layer in convs if not is_dead(layer.name))


def state_dict(
    network: str, heads: dict[str, int], *, counters: bool = True, seed: int = 0
) -> dict[str, Tensor]:
    """Names and shapes of a public file, random values.

    Args:
        network: "dla34", "r18" or "r101".
        heads: :data:`CTDET` or :data:`MULTI_POSE`.
        counters: with ``num_batches_tracked``, which files of PyTorch 0.4 and older lack.
        seed: of the values.
    """
    generator = torch.Generator().manual_seed(seed)
    convs, norms = network_layers(network, heads)
    result = {}
    for layer in convs:
        scale = 1 / math.sqrt(math.prod(layer.shape[1:]))
        shape = layer.shape
        if ".up_" in layer.name:  # depthwise transposed: (channels, 1, k, k), as it is
            scale = 0.25
        result[f"{layer.name}.weight"] = torch.randn(shape, generator=generator) * scale
        if layer.bias:
            result[f"{layer.name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    for name, channels in norms:
        result[f"{name}.weight"] = torch.rand(channels, generator=generator) + 0.5
        result[f"{name}.bias"] = torch.randn(channels, generator=generator) * 0.1
        result[f"{name}.running_mean"] = torch.randn(channels, generator=generator) * 0.1
        result[f"{name}.running_var"] = torch.rand(channels, generator=generator) + 0.5
        if counters:
            result[f"{name}.num_batches_tracked"] = torch.tensor(1)
    return result
