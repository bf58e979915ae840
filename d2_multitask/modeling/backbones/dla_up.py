"""DLA-34 with CenterNet's up-sampling: iterative deep aggregation down to stride 4.

A column is a stride, an arrow to the left brings a map to the next finer stride and adds it there;
"f" is a feature of DLA, and what is at the left end of a row goes on (Yu et al., "Deep Layer
Aggregation", figure 4, which CenterNet made deformable; "Objects as Points", figure 6d):

    stride         4      8      16     32
                   f      f      f  <-  f      aggregation 0, its end: a (stride 16)
                   f      f  <-  .  <-  .      aggregation 1, its end: b (stride 8)
                   f  <-  .  <-  .  <-  .      aggregation 2, its end: c (stride 4)
                   c  <-  b  <-  a             output aggregation -> "p2"

In rows 1 and 2 "." is what the row above left at this place, so every row refines all coarser maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from d2_multitask.modeling.backbones.deformable import bilinear_kernel, conv_norm_relu
from d2_multitask.modeling.backbones.dla import DLA


class IterativeAggregation(nn.Module):
    """One row of the figure: each coarser map is projected, up-sampled, and added to the finer."""

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        factors: Sequence[int],
        *,
        deformable: bool,
        norm: str = "BN",
    ) -> None:
        """
        Args:
            in_channels: Of the maps, finest first.
            out_channels: Of the results; the finest map has them already.
            factors: How many times coarser than the finest each of the coarser maps is.
            deformable: Whether the 3x3 convolutions are deformable.
            norm: A name of `detectron2.layers.get_norm`.
        """
        super().__init__()

        def conv(channels: int) -> nn.Module:
            return conv_norm_relu(channels, out_channels, deformable=deformable, norm=norm)

        self.projections = nn.ModuleList(conv(channels) for channels in in_channels[1:])
        self.nodes = nn.ModuleList(conv(out_channels) for _ in in_channels[1:])
        self.ups = nn.ModuleList(_up_sampling(out_channels, factor) for factor in factors)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Aggregate from fine to coarse.

        Args:
            maps: (N, in_channels[i], h / factor i, w / factor i), finest first.

        Returns:
            As many maps: the finest unchanged, the others (N, out_channels, h, w); the last has
            seen all of them.
        """
        results = [maps[0]]
        layers = zip(maps[1:], self.projections, self.ups, self.nodes, strict=True)
        for coarser, projection, up, node in layers:
            results.append(node(up(projection(coarser)) + results[-1]))
        return results


class DLAUp(Backbone):
    """A feature network of strides 4, 8, 16, 32 and the up-sampling of the figure."""

    def __init__(self, bottom_up: Backbone, *, deformable: bool = True, norm: str = "BN") -> None:
        """
        Args:
            bottom_up: The feature network.
            deformable: Whether the 3x3 convolutions are deformable.
            norm: A name of `detectron2.layers.get_norm`.
        """
        super().__init__()
        self.bottom_up = bottom_up
        shapes = list(bottom_up.output_shape().values())
        channels = [shape.channels for shape in shapes]
        options = {"deformable": deformable, "norm": norm}
        rows = []
        for start in reversed(range(len(channels) - 1)):
            # From the second row on, the coarser maps come from the row above: one stride coarser.
            coarser = (
                channels[start + 1 :]
                if not rows
                else [channels[start + 1]] * (len(channels) - start - 1)
            )
            in_channels = [channels[start], *coarser]
            rows.append(
                IterativeAggregation(in_channels, channels[start], [2] * len(coarser), **options)
            )
        self.aggregations = nn.ModuleList(rows)
        ends = channels[:-1]
        factors = [2**level for level in range(1, len(ends))]
        self.output_aggregation = IterativeAggregation(ends, ends[0], factors, **options)
        self._out_features = ["p2"]
        self._out_feature_strides = {"p2": shapes[0].stride}
        self._out_feature_channels = {"p2": channels[0]}

    @property
    def size_divisibility(self) -> int:
        """That of the feature network."""
        return self.bottom_up.size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute `p2`.

        Args:
            x: Normalised images, (N, C, H, W); H and W are multiples of `size_divisibility`.

        Returns:
            `{"p2": (N, channels of the finest feature, H / 4, W / 4)}`.
        """
        maps = list(self.bottom_up(x).values())  # finest first
        ends: list[Tensor] = []
        for row, aggregation in enumerate(self.aggregations):
            start = len(maps) - 2 - row
            maps[start:] = aggregation(maps[start:])
            ends.insert(0, maps[-1])
        return {"p2": self.output_aggregation(ends)[-1]}


@BACKBONE_REGISTRY.register()
def build_dla_up_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DLAUp:
    """DLA-34 with CenterNet's up-sampling.

    Args:
        cfg: Read: `MODEL.DLA.CHANNELS`, `MODEL.UPSAMPLING.{DEFORMABLE, NORM}`. `MODEL.WEIGHTS`
            takes the ImageNet weights of DLA-34 under their public names, a file of CenterNet,
            or a checkpoint of ours.
        input_shape: Its `channels` are the channels of the images.

    Returns:
        The backbone with output `p2`.

    Raises:
        ValueError: `MODEL.DLA.CHANNELS` are not six numbers.
    """
    upsampling = cfg.MODEL.UPSAMPLING
    bottom_up = DLA(input_shape.channels, cfg.MODEL.DLA.CHANNELS)
    return DLAUp(bottom_up, deformable=upsampling.DEFORMABLE, norm=upsampling.NORM)


def _up_sampling(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Learnt interpolation of each channel by itself; linear at first."""
    up = nn.ConvTranspose2d(
        channels,
        channels,
        2 * factor,
        stride=factor,
        padding=factor // 2,
        groups=channels,
        bias=False,
    )
    with torch.no_grad():
        up.weight.copy_(bilinear_kernel(2 * factor))
    return up
