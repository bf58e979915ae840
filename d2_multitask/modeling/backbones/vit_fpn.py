"""The simple feature pyramid (ViTDet, arXiv 2203.16527, section 3) on a plain transformer."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid
from torch import nn

from d2_multitask.modeling.backbones.vit import OUT_FEATURE, MAEViT, build_mae_vit_backbone

LEVELS = ("p2", "p3", "p4", "p5", "p6")

# Detectron2's pyramid goes from four times the patches' density down to half of it.
_PATCH_SIZES = (4, 8, 16)
_MIN_SCALE = 0.5


class MAEFeaturePyramid(SimpleFeaturePyramid):
    """Detectron2's `SimpleFeaturePyramid` for patches of 4, 8 or 16 pixels and any image size.

    The parameters have Detectron2's names (``net.*``, ``simfp_2`` to ``simfp_5``).
    """

    def __init__(
        self, net: MAEViT, out_channels: int, levels: Sequence[str] = LEVELS, norm: str = "LN"
    ) -> None:
        """
        Args:
            net: the transformer.
            out_channels: channels of every level.
            levels: what to compute: neighbours among "p2" (stride 4) to "p6" (stride 64), finest
                first, "p2" or "p3" the first. "p6" is every second cell of "p5", as in Detectron2.
            norm: normalisation of the pyramid's convolutions, as in Detectron2; "LN" is ViTDet's.

        Raises:
            ValueError: other levels, or patches from which they cannot be made.
        """
        levels = _checked_levels(levels)
        if net.patch_size not in _PATCH_SIZES:
            raise ValueError(
                f"MODEL.MAE.PATCH_SIZE: found {net.patch_size}, expected one of {_PATCH_SIZES} for "
                "a pyramid (weights for patches of 14 pixels are resampled to 16 on loading)"
            )
        strides = {name: 2 ** int(name[1:]) for name in levels}
        scales = {name: net.patch_size / strides[name] for name in levels if name != "p6"}
        known = [scale for scale in scales.values() if scale >= _MIN_SCALE]
        super().__init__(net, OUT_FEATURE, out_channels, known, norm=norm)
        for name in list(scales)[len(known) :]:
            self._add_coarse_stage(name, scales[name], out_channels, norm)
        self.top_block = LastLevelMaxPool() if "p6" in levels else None
        self._out_features = levels
        self._out_feature_channels = dict.fromkeys(levels, out_channels)
        self._out_feature_strides = strides
        self._size_divisibility = max(net.patch_size, *(strides[name] for name in scales))

    def _add_coarse_stage(self, name: str, scale: float, out_channels: int, norm: str) -> None:
        """Detectron2's stage of scale 0.5 for fewer cells, which Detectron2 does not build."""
        dim = self.net.output_shape()[OUT_FEATURE].channels
        use_bias = norm == ""

        def conv(in_channels: int, kernel_size: int) -> Conv2d:
            return Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                padding=kernel_size // 2,
                bias=use_bias,
                norm=get_norm(norm, out_channels),
            )

        side = round(1 / scale)
        stage = nn.Sequential(nn.MaxPool2d(side, side), conv(dim, 1), conv(out_channels, 3))
        self.add_module(f"simfp_{name[1:]}", stage)
        self.stages.append(stage)

    @property
    def size_divisibility(self) -> int:
        """Height and width of the images must be multiples of it: no level loses a border."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """How Detectron2's `ImageList` has to pad a batch."""
        return {"size_divisibility": self.size_divisibility, "square_size": self._square_pad}


@BACKBONE_REGISTRY.register()
def build_mae_vit_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MAEFeaturePyramid:
    """MAE's encoder and the simple feature pyramid.

    Args:
        cfg: Read: as by `build_mae_vit_backbone`, ``MODEL.VIT.LEVELS`` and
            ``MODEL.FPN.{OUT_CHANNELS, NORM}``.
        input_shape: Its `channels` are the channels of the images.

    Returns:
        The backbone.

    Raises:
        ValueError: Numbers that do not fit each other.
    """
    return MAEFeaturePyramid(
        build_mae_vit_backbone(cfg, input_shape),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        levels=list(cfg.MODEL.VIT.LEVELS),
        norm=cfg.MODEL.FPN.NORM,
    )


def _checked_levels(levels: Sequence[str]) -> list[str]:
    levels = list(levels)
    first = LEVELS.index(levels[0]) if levels and levels[0] in LEVELS else len(LEVELS)
    if first > 1 or tuple(levels) != LEVELS[first : first + len(levels)]:
        raise ValueError(
            f"MODEL.VIT.LEVELS: found {levels}, expected neighbours among {list(LEVELS)}, finest "
            "first, beginning with p2 or p3"
        )
    return levels
