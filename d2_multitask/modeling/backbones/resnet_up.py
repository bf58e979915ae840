"""ResNet with three up-convolutions to stride 4: the small and the classic network of CenterNet.

Xiao et al., "Simple Baselines for Human Pose Estimation", whose transposed convolutions CenterNet
("Objects as Points", figure 6c) made narrower and put a 3x3 deformable convolution before.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from d2_multitask.modeling.backbones.deformable import conv_norm_relu
from d2_multitask.modeling.backbones.resnet import build_resnet_body


class UpConvolution(nn.Module):
    """3x3 convolution to fewer channels, then a transposed 4x4 convolution of stride 2."""

    def __init__(
        self, in_channels: int, out_channels: int, *, deformable: bool, norm: str = "BN"
    ) -> None:
        """
        Args:
            in_channels: Channels of the input.
            out_channels: Channels between the convolutions and of the output.
            deformable: Whether the 3x3 convolution is deformable.
            norm: A name of `detectron2.layers.get_norm`, after both convolutions.
        """
        super().__init__()
        self.conv = conv_norm_relu(in_channels, out_channels, deformable=deformable, norm=norm)
        self.up = nn.ConvTranspose2d(
            out_channels, out_channels, 4, stride=2, padding=1, bias=not norm
        )
        self.norm = get_norm(norm, out_channels) or nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, out_channels, 2h, 2w)."""
        return self.relu(self.norm(self.up(self.conv(x))))


class ResNetUp(Backbone):
    """A feature network of which the coarsest map is up-sampled to stride 4."""

    def __init__(
        self,
        bottom_up: Backbone,
        in_feature: str,
        channels: Sequence[int] = (256, 128, 64),
        *,
        deformable: bool = True,
        norm: str = "BN",
    ) -> None:
        """
        Args:
            bottom_up: The feature network.
            in_feature: Its feature to use; stride 4 x 2^number of `channels`.
            channels: After each up-convolution.
            deformable: Whether the 3x3 convolutions are deformable.
            norm: A name of `detectron2.layers.get_norm`.

        Raises:
            ValueError: The up-convolutions do not end at stride 4.
        """
        super().__init__()
        shape = bottom_up.output_shape()[in_feature]
        if shape.stride != 4 * 2 ** len(channels):
            raise ValueError(
                f"MODEL.UPSAMPLING.CHANNELS: found {list(channels)}, which brings {in_feature} "
                f"from stride {shape.stride} to {shape.stride / 2 ** len(channels):g}; expected as "
                "many numbers as it takes to stride 4, three for stride 32"
            )
        self.bottom_up, self.in_feature = bottom_up, in_feature
        widths = [shape.channels, *channels]
        self.ups = nn.Sequential(
            *(
                UpConvolution(before, after, deformable=deformable, norm=norm)
                for before, after in zip(widths, widths[1:], strict=False)
            )
        )
        self._out_features = ["p2"]
        self._out_feature_strides = {"p2": 4}
        self._out_feature_channels = {"p2": channels[-1]}
        self._size_divisibility = shape.stride

    @property
    def size_divisibility(self) -> int:
        """The coarsest stride: up-sampling doubles it exactly."""
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute `p2`.

        Args:
            x: Normalised images, (N, C, H, W); H and W are multiples of `size_divisibility`.

        Returns:
            `{"p2": (N, channels[-1], H / 4, W / 4)}`.
        """
        return {"p2": self.ups(self.bottom_up(x)[self.in_feature])}


@BACKBONE_REGISTRY.register()
def build_resnet_up_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNetUp:
    """ResNet with up-convolutions; with depth 18 or 101, CenterNet's published networks.

    Args:
        cfg: Read: `MODEL.RESNETS` and `MODEL.BACKBONE.FREEZE_AT` as by Detectron2's builder, of
            OUT_FEATURES the last; depths 18 and 34 may be narrow, see
            `build_resnet_fpn_stride4_backbone`. `MODEL.UPSAMPLING`.
        input_shape: Its `channels` are the channels of the images.

    Returns:
        The backbone with output `p2`.

    Raises:
        ValueError: The up-convolutions do not end at stride 4.
    """
    upsampling = cfg.MODEL.UPSAMPLING
    return ResNetUp(
        build_resnet_body(cfg, input_shape),
        cfg.MODEL.RESNETS.OUT_FEATURES[-1],
        upsampling.CHANNELS,
        deformable=upsampling.DEFORMABLE,
        norm=upsampling.NORM,
    )
