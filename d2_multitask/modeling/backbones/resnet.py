"""Detectron2's ResNet of any width with a feature pyramid: stride 4 alone, or all levels."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.resnet import (
    BasicBlock,
    BasicStem,
    ResNet,
    build_resnet_backbone,
)
from torch import Tensor
from torch.nn import functional as F

# Blocks per stage without bottlenecks (He et al., "Deep Residual Learning", table 1)
_BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_FULL_WIDTH = 64


class StrideFourFPN(FPN):
    """Detectron2's FPN reduced to its output `p2` (arXiv 1612.03144, section 3).

    The parameters have the names of `FPN` (`bottom_up.*`, `fpn_lateral2`..`fpn_lateral5`,
    `fpn_output2`), so every FPN checkpoint of Detectron2's model zoo initialises it, and `p2` is
    that of the whole pyramid. The output convolutions of the coarser levels do not exist.

    Args:
        bottom_up: The feature network.
        in_features: Its features to use, finest first; their strides must be 4, 8, 16, ...
        out_channels: Channels of `p2` and of the whole neck. At stride 4 these are expensive: 256
            channels are more work than a ResNet-18.
        norm: Normalisation of the neck's convolutions, as in `FPN`; "" = none.
        fuse_type: "sum" or "avg", as in `FPN`.

    Raises:
        ValueError: A feature does not exist, or the strides are not 4, 8, 16, ...
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        norm: str = "",
        fuse_type: str = "sum",
    ) -> None:
        _check_strides(bottom_up, in_features)
        super().__init__(bottom_up, in_features, out_channels, norm=norm, fuse_type=fuse_type)
        finest, *coarser = self._out_features
        for name in coarser:
            delattr(self, f"fpn_output{name[1:]}")
        self.output_convs = self.output_convs[-1:]  # ordered from coarse to fine
        self._out_features = [finest]
        self._out_feature_strides = {finest: self._out_feature_strides[finest]}
        self._out_feature_channels = {finest: out_channels}
        self._size_divisibility = max(self._size_divisibility, bottom_up.size_divisibility)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W), normalised -> `{"p2": (N, out_channels, H / 4, W / 4)}`.

        H and W are multiples of `size_divisibility`.
        """
        features = self.bottom_up(x)
        coarse_to_fine = zip(reversed(self.in_features), self.lateral_convs, strict=True)
        top_down = None
        for name, lateral_conv in coarse_to_fine:
            lateral = lateral_conv(features[name])  # (N, out_channels, H / s, W / s)
            if top_down is None:
                top_down = lateral
                continue
            top_down = lateral + F.interpolate(top_down, scale_factor=2.0, mode="nearest")
            if self._fuse_type == "avg":
                top_down = top_down / 2
        return {self._out_features[0]: self.output_convs[0](top_down)}


def build_stride_four_fpn(cfg: CfgNode, bottom_up: Backbone) -> StrideFourFPN:
    """The neck that `MODEL.FPN` describes; empty IN_FEATURES mean all features of `bottom_up`."""
    return StrideFourFPN(
        bottom_up=bottom_up,
        in_features=list(cfg.MODEL.FPN.IN_FEATURES) or list(bottom_up.output_shape()),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _check_strides(bottom_up: Backbone, in_features: list[str]) -> None:
    shapes = bottom_up.output_shape()
    unknown = [name for name in in_features if name not in shapes]
    if unknown:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES names {unknown}; {type(bottom_up).__name__} gives "
            f"{sorted(shapes)} (for a ResNet, these are MODEL.RESNETS.OUT_FEATURES)"
        )
    strides = [shapes[name].stride for name in in_features]
    if strides != [4 * 2**level for level in range(len(strides))] or not strides:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES {list(in_features)} of {type(bottom_up).__name__} have strides "
            f"{strides}; expected 4, 8, 16, ... (finest first, each twice the one before; for a "
            'ResNet, set MODEL.RESNETS.OUT_FEATURES to ["res2", "res3", "res4", "res5"])'
        )


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_stride4_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> StrideFourFPN:
    """ResNet with a feature pyramid of which only `p2` is computed.

    `cfg`: `MODEL.RESNETS`, `MODEL.BACKBONE.FREEZE_AT`, `MODEL.FPN`, as of Detectron2's
    `build_resnet_fpn_backbone`. Depths 18 and 34 may also be narrower than the original: with
    `MODEL.RESNETS.RES2_OUT_CHANNELS` c < 64 the stages have c, 2c, 4c and 8c channels.
    """
    return build_stride_four_fpn(cfg, build_resnet_body(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_narrow_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's `build_resnet_fpn_backbone` (`p2` to `p6`); depths 18 and 34 may be narrow."""
    fpn = cfg.MODEL.FPN
    return FPN(
        bottom_up=build_resnet_body(cfg, input_shape),
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )


def build_resnet_body(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Detectron2's ResNet without any neck; see `build_resnet_fpn_stride4_backbone`."""
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH in _BASIC_BLOCKS and resnets.RES2_OUT_CHANNELS != _FULL_WIDTH:
        return _build_narrow_resnet(cfg, input_shape)
    return build_resnet_backbone(cfg, input_shape)


def _build_narrow_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """ResNet-18 or -34 with fewer channels, which Detectron2's builder refuses."""
    resnets = cfg.MODEL.RESNETS
    width = resnets.RES2_OUT_CHANNELS
    if width > _FULL_WIDTH or resnets.RES5_DILATION != 1 or any(resnets.DEFORM_ON_PER_STAGE):
        raise ValueError(
            f"MODEL.RESNETS.DEPTH {resnets.DEPTH} has RES2_OUT_CHANNELS {width}, RES5_DILATION "
            f"{resnets.RES5_DILATION} and DEFORM_ON_PER_STAGE {list(resnets.DEFORM_ON_PER_STAGE)}; "
            f"expected at most {_FULL_WIDTH} channels ({_FULL_WIDTH} is the original network), "
            "no dilation and no deformable convolution"
        )
    stem = BasicStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, norm=resnets.NORM)
    stages, in_channels = [], resnets.STEM_OUT_CHANNELS
    for level, num_blocks in enumerate(_BASIC_BLOCKS[resnets.DEPTH]):
        first_stride = 1 if level == 0 else 2  # the stem already has stride 4
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                num_blocks,
                stride_per_block=[first_stride] + [1] * (num_blocks - 1),
                in_channels=in_channels,
                out_channels=width * 2**level,
                norm=resnets.NORM,
            )
        )
        in_channels = width * 2**level
    return ResNet(
        stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
    )
