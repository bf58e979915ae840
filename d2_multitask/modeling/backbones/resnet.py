"""Detectron2's ResNet of any width, read at stride 4 or as a whole pyramid."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.resnet import (
    BasicBlock,
    BasicStem,
    ResNet,
    build_resnet_backbone,
)

from d2_multitask.modeling.backbones.fpn import StrideFourFPN, build_stride_four_fpn

# Blocks per stage without bottlenecks (He et al., "Deep Residual Learning", table 1)
_BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_FULL_WIDTH = 64


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_stride4_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> StrideFourFPN:
    """ResNet with a feature pyramid of which only `p2` is computed.

    Args:
        cfg: Read: `MODEL.RESNETS`, `MODEL.BACKBONE.FREEZE_AT`, `MODEL.FPN`, as by Detectron2's
            `build_resnet_fpn_backbone`. Depths 18 and 34 may also be narrower than the original:
            with `MODEL.RESNETS.RES2_OUT_CHANNELS` c < 64 the stages have c, 2c, 4c and 8c channels.
        input_shape: Its `channels` are the channels of the images.

    Returns:
        The backbone with output `p2`.

    Raises:
        ValueError: Depth 18 or 34 wider than the original; features of other strides than 4, 8, ...
    """
    return build_stride_four_fpn(cfg, build_resnet_body(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_narrow_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """ResNet with a whole feature pyramid, `p2` to `p6`, for R-CNNs.

    The same as Detectron2's `build_resnet_fpn_backbone`, but depths 18 and 34 may be narrower.

    Args:
        cfg: See `build_resnet_fpn_stride4_backbone`.
        input_shape: Its `channels` are the channels of the images.

    Returns:
        The backbone.

    Raises:
        ValueError: Depth 18 or 34 wider than the original.
    """
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
    """Detectron2's ResNet without any neck; see `build_resnet_fpn_stride4_backbone`.

    Raises:
        ValueError: Depth 18 or 34 wider than the original.
    """
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
    norm = resnets.NORM
    stem = BasicStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, norm=norm)
    stages, in_channels = [], resnets.STEM_OUT_CHANNELS
    for level, num_blocks in enumerate(_BASIC_BLOCKS[resnets.DEPTH]):
        out_channels = width * 2**level
        first_stride = 1 if level == 0 else 2  # the stem already has stride 4
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                num_blocks,
                stride_per_block=[first_stride] + [1] * (num_blocks - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                norm=norm,
            )
        )
        in_channels = out_channels
    return ResNet(
        stem,
        stages,
        out_features=resnets.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
