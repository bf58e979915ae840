"""The backbone of MoveNet MultiPose: MobileNetV2 with a narrow feature pyramid to stride 4.

TensorFlow Object Detection API, `center_net_mobilenet_v2_fpn_feature_extractor` (Apache-2.0). The
published weights (`tools/convert_movenet_weights.py`) have their norms folded into the
convolutions: here these are norms whose statistics change nothing, so `FrozenBN` computes what was
published, and other norms can be trained.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

# Per stage: channels, blocks and stride of the first, of MobileNetV2 (arXiv 1801.04381, table 2)
# with a width of 1.5; the last layer keeps its 1280 channels.
_STEM_CHANNELS = 48
_STAGES = ((24, 1, 1), (40, 2, 2), (48, 3, 2), (96, 4, 2), (144, 3, 1), (240, 3, 2), (480, 1, 1))
_LAST_CHANNELS = 1280
_EXPANSION = 6
# The last block (counted from 0) of a stage -> the feature that it is.
_FEATURES = {2: "res2", 5: "res3", 12: "res4"}
_LATERAL_BLOCKS = (9, 5, 2)
# Channels of the pyramid's sums and of what each gives, from stride 16 to 4.
_SUM_CHANNELS = (64, 32, 24)
_PYRAMID_CHANNELS = (32, 24, 24)
_PYRAMID = ("p4", "p3", "p2")
_STRIDES = {"p2": 4, "p3": 8, "p4": 16, "res2": 4, "res3": 8, "res4": 16, "res5": 32}


class SameConv2d(Conv2d):
    """Detectron2's convolution with TensorFlow's padding "SAME" for even input sizes.

    With stride 2 it pads right and bottom only, where PyTorch pads left and top too. A kernel of
    4x4 whose first row and column are 0 does that without a padded copy of the image, a quarter of
    the network's time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), H and W even if the stride is 2 -> (N, out_channels, H / s, W / s)."""
        if self.stride != (2, 2):
            return super().forward(x)
        weight = F.pad(self.weight, (1, 0, 1, 0))
        x = F.conv2d(x, weight, self.bias, self.stride, padding=1, groups=self.groups)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def _conv(
    in_channels: int,
    out_channels: int,
    size: int,
    norm: str,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
) -> Conv2d:
    layer = SameConv2d(
        in_channels,
        out_channels,
        size,
        stride=stride,
        padding=size // 2 if stride == 1 else 0,
        # Without meaning for 1x1, but keeps PyTorch off its slow path for one image on one thread.
        dilation=2 if size == 1 else 1,
        groups=groups,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=activation,
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return layer


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand 1x1, depthwise 3x3, project 1x1 (arXiv 1801.04381, section 3)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expansion: int, norm: str
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = None
        if expansion > 1:
            self.expand = _conv(in_channels, width, 1, norm, activation=nn.ReLU6(inplace=True))
        self.depthwise = _conv(
            width, width, 3, norm, stride=stride, groups=width, activation=nn.ReLU6(inplace=True)
        )
        self.project = _conv(width, out_channels, 1, norm)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H / stride, W / stride)."""
        expanded = x if self.expand is None else self.expand(x)
        output = self.project(self.depthwise(expanded))
        return x + output if self.has_shortcut else output


class MoveNet(Backbone):
    """MobileNetV2 of width 1.5 and its pyramid.

    Features: `p2`, `p3`, `p4` of the pyramid (24, 24 and 32 channels, strides 4, 8, 16) and `res2`
    to `res5` of MobileNetV2 (40, 48, 144 and 1280 channels, strides 4 to 32).
    """

    def __init__(
        self, in_channels: int = 3, norm: str = "FrozenBN", out_features: Sequence[str] = ("p2",)
    ) -> None:
        """
        Args:
            in_channels: channels of the images.
            norm: a name of `detectron2.layers.get_norm`; "" = biases alone.
            out_features: names of the features to give.

        Raises:
            ValueError: a feature that there is not.
        """
        super().__init__()
        unknown = [name for name in out_features if name not in _STRIDES]
        if unknown or "p2" not in out_features:
            raise ValueError(
                f"MODEL.MOVENET.OUT_FEATURES: found {list(out_features)}, expected 'p2' and "
                f"perhaps others of {list(_STRIDES)}"
            )
        relu6 = nn.ReLU6(inplace=True)
        self.stem = _conv(in_channels, _STEM_CHANNELS, 3, norm, stride=2, activation=relu6)
        self.blocks = nn.ModuleList()
        channels, widths = _STEM_CHANNELS, []
        for stage_channels, num_blocks, stride in _STAGES:
            for index in range(num_blocks):
                expansion = _EXPANSION if self.blocks else 1
                first = stride if index == 0 else 1
                block = InvertedResidual(channels, stage_channels, first, expansion, norm)
                self.blocks.append(block)
                channels = stage_channels
                widths.append(channels)
        self.last = _conv(channels, _LAST_CHANNELS, 1, norm, activation=relu6)
        self.top = Conv2d(_LAST_CHANNELS, _SUM_CHANNELS[0], 1)
        self.laterals = nn.ModuleList(
            Conv2d(widths[block], out_channels, 1)
            for block, out_channels in zip(_LATERAL_BLOCKS, _SUM_CHANNELS, strict=True)
        )
        self.outputs = nn.ModuleList(
            nn.Sequential(
                Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
                _conv(wide, narrow, 1, norm, activation=nn.ReLU(inplace=True)),
            )
            for wide, narrow in zip(_SUM_CHANNELS, _PYRAMID_CHANNELS, strict=True)
        )
        of_block = {name: widths[block] for block, name in _FEATURES.items()}
        of_pyramid = dict(zip(_PYRAMID, _PYRAMID_CHANNELS, strict=True))
        self._out_features = list(out_features)
        self._out_feature_strides = _STRIDES
        self._out_feature_channels = {**of_block, **of_pyramid, "res5": _LAST_CHANNELS}

    @property
    def size_divisibility(self) -> int:
        """Height and width of the images must be multiples of the coarsest stride."""
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W), normalised; H and W are multiples of 32 -> features by name."""
        features, laterals = {}, {}
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _LATERAL_BLOCKS:
                laterals[index] = x
            if index in _FEATURES:
                features[_FEATURES[index]] = x
        features["res5"] = self.last(x)
        x = self.top(features["res5"])
        layers = zip(_PYRAMID, _LATERAL_BLOCKS, self.laterals, self.outputs, strict=True)
        for name, block, lateral, output in layers:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = features[name] = output(x + lateral(laterals[block]))
        return {name: features[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_movenet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MoveNet:
    """The backbone of MoveNet MultiPose.

    Args:
        cfg: Read: `MODEL.MOVENET`.
        input_shape: Its `channels` are the channels of the images.
    """
    node = cfg.MODEL.MOVENET
    return MoveNet(input_shape.channels, node.NORM, node.OUT_FEATURES)
