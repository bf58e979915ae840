"""What heads share that answer for every pixel: where they read, their layers, their resizing.

Letters: N images, C channels, (h, w) prediction grid, (H, W) padded network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor, nn

from d2_multitask.heads.base import Branch, TaskHead, feature_shape


class PyramidBranch(SemSegFPNHead):
    """Panoptic FPN's branch (arXiv 1901.02446, section 3.1) with any number of outputs.

    Detectron2's module: each level of a pyramid goes through convolutions and upsampling up to the
    finest one's size, the levels are summed, a 1x1 convolution predicts. Parameter names are
    Detectron2's, so the zoo's Panoptic FPN weights fit. Only the labels and losses are not used.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        conv_dim: int,
        out_channels: int,
        *,
        norm: str = "",
        bias: float = 0.0,
        weight_std: float | None = 0.01,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read; strides are powers of two
                apart.
            conv_dim: channels of all convolutions but the last.
            out_channels: channels of the prediction.
            norm: normalisation after them, a name of ``detectron2.layers.get_norm``.
            bias: initial bias of the last layer.
            weight_std: standard deviation of the last layer's initial weights; ``None`` keeps
                Detectron2's initialisation.
        """
        super().__init__(
            input_shape,
            num_classes=out_channels,
            conv_dims=conv_dim,
            common_stride=min(shape.stride for shape in input_shape.values()),
            norm=norm,
        )
        if weight_std is not None:
            nn.init.normal_(self.predictor.weight, std=weight_std)
        nn.init.constant_(self.predictor.bias, bias)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name -> (N, out_channels, h, w) at the finest one's size."""
        return self.layers(features)


class DenseHead(TaskHead):
    """Base of heads whose predictions are maps; subclasses say what the maps mean.

    With one feature map a branch is CenterNet's (:class:`Branch`), with several it is Panoptic
    FPN's (:class:`PyramidBranch`).

    Attributes:
        in_features: names of the backbone outputs to read, finest first.
        upscale: a cell's prediction is a block of so many by so many sub-cells.
        stride: input pixels per (sub-)cell of the predictions.
    """

    def __init__(self, input_shape: dict[str, ShapeSpec], upscale: int = 1) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            upscale: see the class; must divide the finest stride.

        Raises:
            ValueError: it does not.
        """
        super().__init__()
        self.input_shape = dict(sorted(input_shape.items(), key=lambda item: item[1].stride))
        self.in_features, self.upscale = list(self.input_shape), upscale
        finest = self.input_shape[self.in_features[0]].stride
        if upscale < 1 or finest % upscale:
            raise ValueError(
                f"UPSCALE of {type(self).__name__}: found {upscale}, expected a divisor of the "
                f"stride {finest} of feature map {self.in_features[0]!r}"
            )
        self.stride = finest // upscale

    def branch(self, conv_dim: int, out_channels: int, norm: str, bias: float = 0.0) -> nn.Module:
        """Layers from the head's feature maps to ``out_channels`` maps, for :meth:`run`."""
        out_channels *= self.upscale**2
        options: dict[str, Any] = {"norm": norm, "bias": bias, "weight_std": 0.01}
        if len(self.in_features) > 1:
            return PyramidBranch(self.input_shape, conv_dim, out_channels, **options)
        channels = self.input_shape[self.in_features[0]].channels
        return Branch(channels, conv_dim, out_channels, **options)

    def run(self, branch: nn.Module, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name -> (N, C, H / stride, W / stride).

        Sub-cells come from the channels of their cell ("sub-pixel convolution", arXiv 1609.05158):
        at a fraction of the cost of convolutions at that resolution.
        """
        one = len(self.in_features) == 1
        output = branch(features[self.in_features[0]] if one else features)
        return F.pixel_shuffle(output, self.upscale) if self.upscale > 1 else output


def add_branch_config(node: CfgNode, conv_dim: int) -> None:
    """Declare the keys that every dense head has."""
    # Finest first. MCN's backbones have "p2" alone; with a whole pyramid, Panoptic FPN's
    # ["p2", "p3", "p4", "p5"] see more of the image.
    node.IN_FEATURES = ["p2"]
    node.CONV_DIM = conv_dim
    # "BN" or "GN" help short schedules, as in the other heads.
    node.NORM = ""


def branch_arguments(node: CfgNode, name: str, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
    """The keys of :func:`add_branch_config` -> arguments of a head's ``__init__``.

    Args:
        node: the head's config.
        name: its name, for messages.
        input_shape: the backbone's outputs.
    """
    return {
        "input_shape": dense_shapes(input_shape, node.IN_FEATURES, f"{name}.IN_FEATURES"),
        "conv_dim": node.CONV_DIM,
        "norm": node.NORM,
    }


def dense_shapes(
    input_shape: dict[str, ShapeSpec], names: Sequence[str], key: str
) -> dict[str, ShapeSpec]:
    """The backbone outputs that a dense head reads, by name.

    Raises:
        ValueError: no name at all, or the backbone has no such output.
    """
    if not names:
        raise ValueError(f"{key}: found nothing, expected some of {sorted(input_shape)}")
    return {name: feature_shape(input_shape, name, key) for name in names}


def to_input_size(maps: Tensor, stride: int, padded_hw: tuple[int, int]) -> Tensor:
    """Predictions (N, C, h, w) -> (N, C, H, W), the padded network input's size, in float32."""
    maps = maps.float()
    if stride > 1:
        maps = F.interpolate(maps, scale_factor=stride, mode="bilinear", align_corners=False)
    return maps[..., : padded_hw[0], : padded_hw[1]]


def resize_maps(
    maps: Tensor, stride: int, image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """From the prediction grid to the output image in one interpolation where that is exact.

    Args:
        maps: (C, h, w) on the padded grid.
        stride: input pixels per cell.
        image_size: (h, w) of the network input before padding.
        output_size: (h, w) asked for.

    Returns:
        (C, height, width) with (height, width) = ``output_size``.
    """

    def resize(maps: Tensor, **size: Any) -> Tensor:
        return F.interpolate(maps[None], mode="bilinear", align_corners=False, **size)[0]

    height, width = image_size
    if height % stride == 0 and width % stride == 0:
        return resize(maps[:, : height // stride, : width // stride], size=output_size)
    # The image ends inside a cell: cut it at the input's resolution, then resize.
    return sem_seg_postprocess(resize(maps, scale_factor=stride), image_size, *output_size)


def labelled_maps(
    maps: Sequence[Tensor | None], padded_hw: tuple[int, int], device: torch.device, channels: int
) -> tuple[Tensor, Tensor]:
    """Stack float maps of different sizes, top left aligned, and say where they are labelled.

    Args:
        maps: per image (C, H_i, W_i) float; ``None`` where the image has no such label.
        padded_hw: (H, W) of the padded batch.
        device: where the result lives.
        channels: C.

    Returns:
        (N, C, H, W) float32, zero where there is no label, and (N, H, W) bool, where there is one.

    Raises:
        ValueError: a map is larger than the padded batch, or has other channels.
    """
    values = torch.zeros((len(maps), channels, *padded_hw), device=device)
    labelled = torch.zeros((len(maps), *padded_hw), dtype=torch.bool, device=device)
    for index, one in enumerate(maps):
        if one is None:
            continue
        height, width = one.shape[-2:]
        if len(one) != channels or height > padded_hw[0] or width > padded_hw[1]:
            raise ValueError(
                f"map of image {index} of the batch: found shape {tuple(one.shape)}, expected "
                f"{channels} channels and at most the padded image's {padded_hw[0]}x{padded_hw[1]} "
                "(height x width)"
            )
        values[index, :, :height, :width] = one.to(device)
        labelled[index, :height, :width] = True
    return values, labelled
