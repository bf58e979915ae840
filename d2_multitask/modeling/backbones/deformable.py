"""Modulated deformable convolution (DCNv2) without anything to compile: torchvision's operator, and
on processors the same from PyTorch's own, which is faster there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DeformableConv2d(nn.Module):
    """A 3x3 convolution that decides per cell where to look and how much to trust what it sees.

    An ordinary 3x3 convolution reads nine neighbours. Here a second convolution
    (`conv_offset_mask`) predicts, for each cell and each of the nine, a shift (y, x) and a weight
    in [0, 1]; the neighbour is read at the shifted place, between cells by bilinear
    interpolation, as 0 outside of the map. Fresh, all shifts are 0 and all weights 1/2.

    Zhu et al., "Deformable ConvNets v2", section 3.2; the parameters are those of CenterNet's
    compiled layer. What is around the operator (`norm`, `activation`) is as in Detectron2's
    `Conv2d`.
    """

    kernel_size = (3, 3)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        """
        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            norm: What follows the convolution.
            activation: What follows that.
        """
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        bound = 1 / math.sqrt(9 * in_channels)
        nn.init.uniform_(self.weight, -bound, bound)
        self.conv_offset_mask = nn.Conv2d(in_channels, 27, 3, padding=1)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, out_channels, h, w)."""
        predicted = self.conv_offset_mask(x)  # (N, 27, h, w)
        # Channels 0..17 are (y, x) of neighbour 0, of neighbour 1, ... row by row of the kernel.
        offset, mask = predicted[:, :18], predicted[:, 18:].sigmoid()
        x = self._convolve(x, offset, mask).to(predicted.dtype)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)

    def _convolve(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """The operator, in the weights' type: autocast does not know it on processors, where it
        refuses mixed types.
        """
        x, offset, mask = (tensor.to(self.weight.dtype) for tensor in (x, offset, mask))
        # A traced or exported network keeps the operator, which ONNX knows too.
        recorded = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if x.device.type != "cpu" or recorded:
            return deform_conv2d(x, offset, self.weight, self.bias, padding=1, mask=mask)
        # Image by image: the samples of one, nine times its map, stay in the cache.
        images = zip(x.split(1), offset.split(1), mask.split(1), strict=True)
        return torch.cat([sampled_convolution(*i, self.weight, self.bias) for i in images])


def sampled_convolution(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """The same as torchvision's operator, from parts that are fast on processors.

    All neighbours are sampled at once (`grid_sample`), the rest is a matrix product. Torchvision's
    operator is a loop over single numbers there: half as fast, its gradient a sixth as fast.

    Args:
        x: (N, in_channels, h, w).
        offset: (N, 18, h, w), as `DeformableConv2d` predicts it.
        mask: (N, 9, h, w), the weight of each neighbour.
        weight: (out_channels, in_channels, 3, 3).
        bias: (out_channels,).

    Returns:
        (N, out_channels, h, w).
    """
    n, channels, h, w = x.shape
    neighbour = torch.arange(9, device=x.device).view(9, 1, 1)
    rows = torch.arange(h, device=x.device).view(1, h, 1) + neighbour // 3 - 1  # (9, h, 1)
    columns = torch.arange(w, device=x.device).view(1, 1, w) + neighbour % 3 - 1  # (9, 1, w)
    shift_y, shift_x = offset.view(n, 9, 2, h, w).unbind(2)  # (N, 9, h, w) each
    # grid_sample's places: -1 and 1 are the map's borders, half a cell outside the last centres.
    grid = torch.stack(
        ((2 * (columns + shift_x) + 1) / w - 1, (2 * (rows + shift_y) + 1) / h - 1), -1
    )
    samples = F.grid_sample(x, grid.view(n, 9 * h, w, 2), align_corners=False)
    samples = samples.view(n, channels, 9, h * w) * mask.reshape(n, 1, 9, h * w)
    result = weight.flatten(1) @ samples.view(n, channels * 9, h * w)
    return result.view(n, -1, h, w) + bias.view(1, -1, 1, 1)


def conv_norm_relu(
    in_channels: int, out_channels: int, *, deformable: bool, norm: str = "BN"
) -> Conv2d | DeformableConv2d:
    """A 3x3 convolution of stride 1, its norm and ReLU: the unit of the up-sampling networks.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        deformable: Whether the convolution is deformable.
        norm: A name of `detectron2.layers.get_norm`.
    """
    after = {"norm": get_norm(norm, out_channels), "activation": nn.ReLU(inplace=True)}
    if deformable:
        return DeformableConv2d(in_channels, out_channels, **after)
    return Conv2d(in_channels, out_channels, 3, padding=1, bias=not norm, **after)


def bilinear_kernel(size: int) -> Tensor:
    """(size, size) weights with which a transposed convolution interpolates linearly.

    Args:
        size: Side of the kernel, twice the stride.
    """
    factor = math.ceil(size / 2)
    center = (2 * factor - 1 - factor % 2) / (2 * factor)
    profile = 1 - (torch.arange(size) / factor - center).abs()
    return profile[:, None] * profile
