"""The neck: a feature pyramid of which only the finest level, stride 4, is computed and held."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor
from torch.nn import functional as F


class StrideFourFPN(FPN):
    """Detectron2's FPN reduced to its output `p2`.

    The names of the parameters are those of `FPN` (`bottom_up.*`, `fpn_lateral2`..`fpn_lateral5`,
    `fpn_output2`), so every FPN checkpoint of Detectron2's model zoo initialises it, and `p2` is
    the same as that of the whole pyramid. The output convolutions of the coarser levels do not
    exist. Lin et al., "Feature Pyramid Networks for Object Detection", section 3.

    Args:
        bottom_up: The feature network.
        in_features: Its features to use, finest first; their strides must be 4, 8, 16, ...
        out_channels: Channels of `p2` and of the whole neck. At stride 4 these cost: 256 channels
            are more work than a ResNet-18.
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

    @property
    def padding_constraints(self) -> dict[str, int]:
        """How Detectron2's `ImageList` has to pad a batch."""
        return {"size_divisibility": self.size_divisibility, "square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute `p2`.

        Args:
            x: Normalised images, (N, C, H, W); H and W are multiples of `size_divisibility`.

        Returns:
            `{"p2": (N, out_channels, H / 4, W / 4)}`.
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
    """Put the neck that `MODEL.FPN` describes on a feature network.

    Args:
        cfg: Read: `MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE}`. Empty IN_FEATURES mean
            all features of `bottom_up`.
        bottom_up: The feature network.

    Returns:
        The backbone.
    """
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
    expected = [4 * 2**level for level in range(len(strides))]
    if strides != expected or not strides:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES {list(in_features)} of {type(bottom_up).__name__} have strides "
            f"{strides}; expected 4, 8, 16, ... (finest first, each twice the one before; for a "
            'ResNet, set MODEL.RESNETS.OUT_FEATURES to ["res2", "res3", "res4", "res5"])'
        )
