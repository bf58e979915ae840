"""DLA-34, the feature network of CenterNet's best real-time models (Yu et al., "Deep Layer
Aggregation", arXiv 1707.06484, figure 3; DLA-34 of its table 1).

The idea: instead of using the last layer's answer, a stage lets a 1x1 convolution (`Root`) mix
the answers of all of its parts. A stage is a binary tree, read from left to right:

    depth 1:   x -> block -> x1 -> block -> x2,     answer = root(x2, x1)
    depth 2:   x -> tree 1 -> y1 -> tree 2 -> y2,   tree 1 and tree 2 of depth 1, and
               the root of tree 2 also mixes y1 and the stage's own (down-sampled) input:
               answer = root(x2, x1, x, y1)

There is no further root for the outer tree: its work is merged into the root of tree 2 (the paper
draws that in figure 2f). The parameters have the names of the public weight files
(`base_layer.0.weight`, `level3.tree1.root.conv.weight`, ...).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

# Depth of the trees of the stages with strides 4, 8, 16, 32.
_TREE_DEPTHS = (1, 2, 2, 1)
NUM_STAGES = 6


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, as in ResNet-18, but the shortcut comes from outside."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        """
        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            stride: Of the first convolution.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """(N, in_channels, h, w) and (N, out_channels, h / stride, w / stride) -> the latter."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class Root(nn.Module):
    """Mixes answers of a tree's parts: their concatenation through a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """
        Args:
            in_channels: Sum of the channels of all answers.
            out_channels: Channels of the output.
        """
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, *answers: Tensor) -> Tensor:
        """(N, some channels, h, w) each -> (N, out_channels, h, w)."""
        return self.relu(self.bn(self.conv(torch.cat(answers, 1))))


class Tree(nn.Module):
    """One tree; see the top of this file."""

    def __init__(
        self,
        depth: int,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        input_to_root: bool = False,
        extra_channels: int = 0,
    ) -> None:
        """
        Args:
            depth: 1 for two blocks and a root, more for two trees of one less.
            in_channels: Channels of the input.
            out_channels: Channels of every part and of the output.
            stride: Of the whole tree; its first block does it.
            input_to_root: Whether the root mixes the down-sampled input too.
            extra_channels: Channels of the answers from outside that the root mixes too.
        """
        super().__init__()
        self.depth, self.input_to_root = depth, input_to_root
        if input_to_root:
            extra_channels += in_channels
        self.downsample = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()
        if depth == 1:
            self.tree1 = BasicBlock(in_channels, out_channels, stride)
            self.tree2 = BasicBlock(out_channels, out_channels)
            self.root = Root(2 * out_channels + extra_channels, out_channels)
            self.project = _projection(in_channels, out_channels)
        else:
            self.tree1 = Tree(depth - 1, in_channels, out_channels, stride)
            self.tree2 = Tree(
                depth - 1,
                out_channels,
                out_channels,
                extra_channels=extra_channels + out_channels,
            )

    def forward(self, x: Tensor, extra: Sequence[Tensor] = ()) -> Tensor:
        """(N, in_channels, h, w) -> (N, out_channels, h / stride, w / stride).

        Args:
            x: The input.
            extra: Answers from outside, at the output's size.
        """
        if self.input_to_root:
            extra = (*extra, self.downsample(x))
        if self.depth > 1:
            first = self.tree1(x)
            return self.tree2(first, (*extra, first))
        first = self.tree1(x, self.project(self.downsample(x)))
        return self.root(self.tree2(first, first), first, *extra)


class DLA(Backbone):
    """The six stages of DLA-34, strides 1, 2, 4, 8, 16, 32; the last four are the output."""

    def __init__(
        self, in_channels: int = 3, channels: Sequence[int] = (16, 32, 64, 128, 256, 512)
    ) -> None:
        """
        Args:
            in_channels: Channels of the images.
            channels: Of the six stages; the default is DLA-34.

        Raises:
            ValueError: Not six numbers.
        """
        super().__init__()
        if len(channels) != NUM_STAGES or min(channels) < 1:
            raise ValueError(
                f"MODEL.DLA.CHANNELS: found {list(channels)}, expected {NUM_STAGES} numbers, for "
                "the strides 1, 2, 4, 8, 16, 32"
            )
        self.base_layer = _conv_norm_relu(in_channels, channels[0], 7)
        self.level0 = _conv_norm_relu(channels[0], channels[0], 3)
        self.level1 = _conv_norm_relu(channels[0], channels[1], 3, stride=2)
        for level, depth in enumerate(_TREE_DEPTHS, start=2):
            # At level 2 the input is little more than edges, not worth mixing.
            tree = Tree(depth, channels[level - 1], channels[level], 2, input_to_root=level > 2)
            setattr(self, f"level{level}", tree)
        self._out_features = [f"level{level}" for level in range(2, NUM_STAGES)]
        self._out_feature_strides = {f"level{level}": 2**level for level in range(2, NUM_STAGES)}
        self._out_feature_channels = {
            f"level{level}": channels[level] for level in range(2, NUM_STAGES)
        }

    @property
    def size_divisibility(self) -> int:
        """The coarsest stride."""
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the features.

        Args:
            x: Normalised images, (N, C, H, W); H and W are multiples of 32.

        Returns:
            `{"level2": (N, channels[2], H / 4, W / 4), ..., "level5": (..., H / 32, W / 32)}`.
        """
        x = self.level1(self.level0(self.base_layer(x)))
        features = {}
        for name in self._out_features:
            x = features[name] = getattr(self, name)(x)
        return features

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }


def _projection(in_channels: int, out_channels: int) -> nn.Module:
    """Brings a shortcut to the channels of its block."""
    if in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
    )


def _conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
