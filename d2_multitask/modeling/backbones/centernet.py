"""CenterNet's own networks ("Objects as Points", arXiv 1904.07850, section 5.1), for its weights.

- `build_dla_up_backbone`: DLA-34 (Yu et al., "Deep Layer Aggregation", arXiv 1707.06484) and
  iterative deep aggregation down to stride 4 (figure 6d);
- `build_resnet_up_backbone`: ResNet and three up-convolutions (figure 6c).

Both put a 3x3 convolution, deformable or plain, around each up-sampling.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from d2_multitask.modeling.backbones.resnet import build_resnet_body

# DLA-34: convolutions or tree depth of the stages with strides 1, 2, 4, 8, 16, 32.
_DLA34_LEVELS = (1, 1, 1, 2, 2, 1)


class DeformableConv2d(nn.Module):
    """Modulated deformable 3x3 convolution (DCNv2, arXiv 1811.11168, section 3.2).

    A second convolution (`conv_offset_mask`) predicts for each cell and each of its nine
    neighbours an offset (y, x) and a weight in [0, 1]; the neighbour is read at the shifted place
    with bilinear interpolation, as 0 outside the map. Initially all offsets are 0 and all weights
    1/2. The parameters are those of CenterNet's compiled layer; `norm` and `activation` are as in
    Detectron2's `Conv2d`.
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
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Conv2d
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
        # In the weights' type: autocast does not know the operator on CPUs, which refuses mixed
        # types.
        x, offset, mask = (tensor.to(self.weight.dtype) for tensor in (x, offset, mask))
        # A traced or exported network keeps the operator, which ONNX knows too.
        exported = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if x.device.type != "cpu" or exported:
            return deform_conv2d(x, offset, self.weight, self.bias, padding=1, mask=mask)
        # Image by image: the samples of one image, nine times its map, stay in the CPU's cache.
        images = zip(x.split(1), offset.split(1), mask.split(1), strict=True)
        return torch.cat([sampled_convolution(*i, self.weight, self.bias) for i in images])


def sampled_convolution(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """`torchvision.ops.deform_conv2d` for 3x3 kernels with padding 1, faster on CPUs.

    All neighbours are sampled at once (`grid_sample`), the rest is a matrix product. On CPUs
    torchvision's operator takes twice as long, and its gradient six times as long. Shapes of
    arguments and result are those of torchvision's.
    """
    n, channels, h, w = x.shape
    neighbour = torch.arange(9, device=x.device).view(9, 1, 1)
    rows = torch.arange(h, device=x.device).view(1, h, 1) + neighbour // 3 - 1  # (9, h, 1)
    columns = torch.arange(w, device=x.device).view(1, 1, w) + neighbour % 3 - 1  # (9, 1, w)
    shift_y, shift_x = offset.view(n, 9, 2, h, w).unbind(2)  # (N, 9, h, w) each
    # grid_sample's coordinates: -1 and 1 are the map's borders, half a cell outside the centres.
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
    """3x3 convolution, deformable or plain, its norm (a name of Detectron2's `get_norm`), ReLU."""
    after = {"norm": get_norm(norm, out_channels), "activation": nn.ReLU(inplace=True)}
    if deformable:
        return DeformableConv2d(in_channels, out_channels, **after)
    return Conv2d(in_channels, out_channels, 3, padding=1, bias=not norm, **after)


class DLA(Backbone):
    """timm's DLA-34 of any width, without its classifier; see `forward`.

    The parameters have the names of the public weight files (`base_layer.0.weight`,
    `level3.tree1.root.conv.weight`, ...).

    Args:
        in_channels: Channels of the images.
        channels: Of the six stages with strides 1, 2, 4, 8, 16, 32; the default is DLA-34.

    Raises:
        ValueError: Not six positive numbers.
    """

    def __init__(
        self, in_channels: int = 3, channels: Sequence[int] = (16, 32, 64, 128, 256, 512)
    ) -> None:
        super().__init__()
        if len(channels) != 6 or min(channels) < 1:
            raise ValueError(
                f"MODEL.DLA.CHANNELS: found {list(channels)}, expected 6 numbers, for the strides "
                "1, 2, 4, 8, 16, 32"
            )
        from timm.models import dla  # imports all of timm, which takes a second

        network = dla.DLA(
            _DLA34_LEVELS, tuple(channels), num_classes=0, in_chans=in_channels, block=dla.DlaBasic
        )
        for name, module in network.named_children():
            if name.startswith(("base_layer", "level")):
                self.add_module(name, module)
        for module in list(self.modules()):
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()  # CenterNet starts from PyTorch's initial values
            elif isinstance(module, dla.DlaTree):
                # Last, as in saved checkpoints: optimizers number the parameters in this order.
                module.project = module._modules.pop("project")
        self._out_features = [f"level{i}" for i in range(2, 6)]
        self._out_feature_strides = {f"level{i}": 2**i for i in range(2, 6)}
        self._out_feature_channels = {f"level{i}": channels[i] for i in range(2, 6)}

    @property
    def size_divisibility(self) -> int:
        """The coarsest stride."""
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W), normalised; H and W are multiples of 32 -> features.

        `{"level2": (N, channels[2], H / 4, W / 4), ..., "level5": (..., H / 32, W / 32)}`.
        """
        x = self.level1(self.level0(self.base_layer(x)))
        features = {}
        for name in self._out_features:
            x = features[name] = getattr(self, name)(x)
        return features


class IterativeAggregation(nn.Module):
    """Each coarser map is projected, up-sampled, and added to the result before it.

    Args:
        in_channels: Of the maps, finest first.
        out_channels: Of the results; the finest map must have as many.
        factors: How many times coarser than the finest each of the coarser maps is.
        **options: Of `conv_norm_relu`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        factors: Sequence[int],
        **options: Any,
    ) -> None:
        super().__init__()
        self.projections, self.nodes = (
            nn.ModuleList(conv_norm_relu(before, out_channels, **options) for before in channels)
            for channels in (in_channels[1:], [out_channels] * len(factors))
        )
        self.ups = nn.ModuleList(_up_sampling(out_channels, factor) for factor in factors)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, in_channels[i], h / factor i, w / factor i), finest first -> as many maps.

        The finest is unchanged, the others are (N, out_channels, h, w); the last depends on all.
        """
        results = [maps[0]]
        layers = zip(maps[1:], self.projections, self.ups, self.nodes, strict=True)
        for coarser, projection, up, node in layers:
            results.append(node(up(projection(coarser)) + results[-1]))
        return results


class DLAUp(Backbone):
    """A feature network of strides 4, 8, 16, 32 with CenterNet's up-sampling to `p2`.

    A column is a stride, an arrow to the left brings a map to the next finer stride and adds it
    there; "f" is a feature of the network (Yu et al., figure 4; CenterNet made it deformable):

        stride         4      8      16     32
                       f      f      f  <-  f      aggregation 0, its end: a (stride 16)
                       f      f  <-  .  <-  .      aggregation 1, its end: b (stride 8)
                       f  <-  .  <-  .  <-  .      aggregation 2, its end: c (stride 4)
                       c  <-  b  <-  a             output aggregation -> "p2"

    In rows 1 and 2 "." is the result of the row above at this place.
    """

    def __init__(self, bottom_up: Backbone, *, deformable: bool = True, norm: str = "BN") -> None:
        super().__init__()
        self.bottom_up = bottom_up
        shapes = list(bottom_up.output_shape().values())
        channels = [shape.channels for shape in shapes]
        options = {"deformable": deformable, "norm": norm}
        self.aggregations = nn.ModuleList()
        for start in reversed(range(len(channels) - 1)):
            coarser = channels[start + 1 :]
            if self.aggregations:  # the coarser maps come from the row above, one stride coarser
                coarser = coarser[:1] * len(coarser)
            in_channels, factors = [channels[start], *coarser], [2] * len(coarser)
            self.aggregations.append(
                IterativeAggregation(in_channels, channels[start], factors, **options)
            )
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
        """(N, C, H, W), normalised -> `{"p2": (N, channels, H / 4, W / 4)}`.

        H and W are multiples of `size_divisibility`.
        """
        maps = list(self.bottom_up(x).values())  # finest first
        ends: list[Tensor] = []
        for row, aggregation in enumerate(self.aggregations):
            start = len(maps) - 2 - row
            maps[start:] = aggregation(maps[start:])
            ends.insert(0, maps[-1])
        return {"p2": self.output_aggregation(ends)[-1]}


def bilinear_kernel(size: int) -> Tensor:
    """(size, size) weights with which a transposed convolution of stride size / 2 interpolates."""
    profile = 1 - ((torch.arange(size) + 0.5) * 2 / size - 1).abs()
    return profile[:, None] * profile


def _up_sampling(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Learned interpolation of each channel by itself; initially bilinear."""
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


@BACKBONE_REGISTRY.register()
def build_dla_up_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DLAUp:
    """DLA-34 with CenterNet's up-sampling, output `p2`.

    `cfg`: `MODEL.DLA.CHANNELS`, `MODEL.UPSAMPLING.{DEFORMABLE, NORM}`. `MODEL.WEIGHTS` takes the
    ImageNet weights of DLA-34 under their public names, a file of CenterNet, or a checkpoint of
    this package.
    """
    upsampling = cfg.MODEL.UPSAMPLING
    bottom_up = DLA(input_shape.channels, cfg.MODEL.DLA.CHANNELS)
    return DLAUp(bottom_up, deformable=upsampling.DEFORMABLE, norm=upsampling.NORM)


def _up_convolution(
    in_channels: int, out_channels: int, *, deformable: bool, norm: str
) -> nn.Sequential:
    """3x3 convolution to ``out_channels``, then a transposed 4x4 convolution of stride 2."""
    return nn.Sequential(
        OrderedDict(
            conv=conv_norm_relu(in_channels, out_channels, deformable=deformable, norm=norm),
            up=nn.ConvTranspose2d(
                out_channels, out_channels, 4, stride=2, padding=1, bias=not norm
            ),
            norm=get_norm(norm, out_channels) or nn.Identity(),
            relu=nn.ReLU(inplace=True),
        )
    )


class ResNetUp(Backbone):
    """A feature network whose coarsest map is up-sampled to stride 4.

    Xiao et al., "Simple Baselines for Human Pose Estimation" (arXiv 1804.06208), which CenterNet
    made narrower.

    Args:
        bottom_up: The feature network.
        in_feature: Its feature to use; stride 4 x 2^number of `channels`.
        channels: After each up-convolution.

    Raises:
        ValueError: The up-convolutions do not end at stride 4.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_feature: str,
        channels: Sequence[int] = (256, 128, 64),
        *,
        deformable: bool = True,
        norm: str = "BN",
    ) -> None:
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
                _up_convolution(before, after, deformable=deformable, norm=norm)
                for before, after in zip(widths, widths[1:], strict=False)
            )
        )
        self._out_features = ["p2"]
        self._out_feature_strides = {"p2": 4}
        self._out_feature_channels = {"p2": channels[-1]}
        self._size_divisibility = shape.stride

    @property
    def size_divisibility(self) -> int:
        """The coarsest stride: up-sampling doubles the map exactly."""
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W), normalised -> `{"p2": (N, channels[-1], H / 4, W / 4)}`.

        H and W are multiples of `size_divisibility`.
        """
        return {"p2": self.ups(self.bottom_up(x)[self.in_feature])}


@BACKBONE_REGISTRY.register()
def build_resnet_up_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNetUp:
    """ResNet with up-convolutions, output `p2`; depths 18 and 101 are CenterNet's.

    `cfg`: `MODEL.RESNETS` and `MODEL.BACKBONE.FREEZE_AT` as by Detectron2's builder (of
    OUT_FEATURES the last), `MODEL.UPSAMPLING`. Depths 18 and 34 may be narrow, see
    `build_resnet_fpn_stride4_backbone`.
    """
    upsampling = cfg.MODEL.UPSAMPLING
    return ResNetUp(
        build_resnet_body(cfg, input_shape),
        cfg.MODEL.RESNETS.OUT_FEATURES[-1],
        upsampling.CHANNELS,
        deformable=upsampling.DEFORMABLE,
        norm=upsampling.NORM,
    )
