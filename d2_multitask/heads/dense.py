"""The base of heads that answer for every pixel.

Detectron2's way: logits are brought to the input's resolution, where the labels are, and pixels
with the ignored label cost nothing.

Letters: N images, C channels, (h, w) prediction grid, (H, W) padded network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor, nn

from d2_multitask.heads.base import (
    Branch,
    Decoded,
    Lesson,
    Predictions,
    Size,
    Targets,
    TaskHead,
    feature_shape,
)
from d2_multitask.losses import distilled_cross_entropy, masked_cross_entropy
from d2_multitask.targets.encode import BatchLabels


class PyramidBranch(SemSegFPNHead):
    """Panoptic FPN's branch (arXiv 1901.02446, section 3.1) with any number of outputs.

    Detectron2's module: each level of a pyramid goes through convolutions and upsampling up to the
    finest one's size, the levels are summed, a 1x1 convolution predicts. Parameter names are
    Detectron2's, so the zoo's Panoptic FPN weights fit. Its labels and losses are not used.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        conv_dim: int,
        out_channels: int,
        *,
        norm: str = "",
        bias: float = 0.0,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read; strides are powers of two
                apart.
            conv_dim: channels of all convolutions but the last.
            out_channels: channels of the prediction.
            norm: normalisation after them, a name of ``detectron2.layers.get_norm``.
            bias: initial bias of the last layer.
        """
        super().__init__(
            input_shape,
            num_classes=out_channels,
            conv_dims=conv_dim,
            common_stride=min(shape.stride for shape in input_shape.values()),
            norm=norm,
        )
        nn.init.constant_(self.predictor.bias, bias)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name -> (N, out_channels, h, w) at the finest one's size."""
        return self.layers(features)


class TopDownBranch(nn.Module):
    """From the coarsest feature map to the finest, in separable convolutions.

    A 1x1 convolution brings each map to the same width; the result of the coarser ones is
    upsampled and added, then a depthwise 3x3 and a 1x1 convolution follow. With a wide coarse map
    it has a fifth of :class:`PyramidBranch`'s weights.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        conv_dim: int,
        out_channels: int,
        *,
        norm: str = "",
        bias: float = 0.0,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            conv_dim: channels of all convolutions but the last.
            out_channels: channels of the prediction.
            norm: normalisation, a name of ``detectron2.layers.get_norm``.
            bias: initial bias of the last layer.
        """
        super().__init__()
        coarse_first = sorted(input_shape.items(), key=lambda item: -item[1].stride)
        self.strides = [shape.stride for _, shape in coarse_first]
        self.in_features = [name for name, _ in coarse_first]
        self.projections = nn.ModuleList(
            Conv2d(shape.channels, conv_dim, 1, bias=not norm, norm=get_norm(norm, conv_dim))
            for _, shape in coarse_first
        )
        self.fusions = nn.ModuleList(
            nn.Sequential(*list(Branch(conv_dim, conv_dim, 1, norm=norm, separable=True))[:-1])
            for _ in coarse_first
        )
        self.predictor = Conv2d(conv_dim, out_channels, 1)
        nn.init.constant_(self.predictor.bias, bias)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name -> (N, out_channels, h, w) at the finest one's size."""
        x, stride = 0, self.strides[0]
        layers = zip(self.in_features, self.strides, self.projections, self.fusions, strict=True)
        for name, finer, projection, fusion in layers:
            if stride != finer:
                scale = stride / finer
                x = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
            x, stride = fusion(F.relu(x + projection(features[name]))), finer
        return self.predictor(x)


class DenseHead(TaskHead):
    """Base of heads whose predictions are maps.

    As it is, it learns and answers one map of logits, (N, C, h, w): subclasses make the layers, say
    what C is and how it is learned. With one feature map a branch is CenterNet's (:class:`Branch`),
    with several it is Panoptic FPN's (:class:`PyramidBranch`), or :class:`TopDownBranch`.

    Attributes:
        label: key of the labels in ``batched_inputs``, of the answer in the results, of the
            predictions, and name of the layers.
        node_name: the head's node of ``cfg.MODEL``.
        has_channels: answers are (C, height, width), not (height, width).
        in_features: names of the backbone outputs to read, finest first.
        upscale: a cell's prediction is a block of so many by so many sub-cells.
        stride: input pixels per (sub-)cell of the predictions.
    """

    label: ClassVar[str]
    node_name: ClassVar[str]
    has_channels: ClassVar[bool] = False

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dim: int = 64,
        norm: str = "",
        upscale: int = 1,
        ignore_value: int = 255,
        separable: bool = False,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            conv_dim: channels of the convolutions; 0 = a linear layer for each cell of one map.
            norm: normalisation after them.
            separable: depthwise 3x3 convolutions; of several maps :class:`TopDownBranch`.
            upscale: see the class; must divide the finest stride.
            ignore_value: label that is ignored.

        Raises:
            ValueError: ``upscale`` does not.
        """
        super().__init__()
        self.input_shape = dict(sorted(input_shape.items(), key=lambda item: item[1].stride))
        self.in_features, self.upscale = list(self.input_shape), upscale
        self.conv_dim, self.norm, self.ignore_value = conv_dim, norm, ignore_value
        self.separable = separable
        finest = self.input_shape[self.in_features[0]].stride
        if upscale < 1 or finest % upscale:
            raise ValueError(
                f"UPSCALE of {type(self).__name__}: found {upscale}, expected a divisor of the "
                f"stride {finest} of feature map {self.in_features[0]!r}"
            )
        self.stride = finest // upscale

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``; see :func:`node_arguments`."""
        return node_arguments(cfg, cls.node_name, input_shape)

    def branch(self, out_channels: int, bias: float = 0.0) -> nn.Module:
        """Layers from the head's feature maps to ``out_channels`` maps, for :meth:`run`.

        ``bias`` is the initial logit of a prior probability; 0 = none.
        """
        out_channels *= self.upscale**2
        options: dict[str, Any] = {"norm": self.norm, "bias": bias}
        if len(self.in_features) > 1:
            kind = TopDownBranch if self.separable else PyramidBranch
            branch: Any = kind(self.input_shape, self.conv_dim, out_channels, **options)
            predictor = branch.predictor
        else:
            channels = self.input_shape[self.in_features[0]].channels
            options["separable"] = self.separable
            branch = Branch(channels, self.conv_dim, out_channels, **options)
            predictor = branch[-1]
        # Logits of a variance of 1: with weights near zero AdamW makes the same first steps for all
        # channels before this layer (docs/findings.md, "Initial weights of dense heads"). A prior
        # probability, as of rare boundaries, is kept instead: it holds while the weights are small.
        if bias:
            nn.init.normal_(predictor.weight, std=0.01)
        else:
            nn.init.kaiming_normal_(predictor.weight, nonlinearity="relu")
        return branch

    def run(self, branch: nn.Module, features: dict[str, Tensor]) -> Tensor:
        """Feature maps by name -> (N, C, H / stride, W / stride).

        Sub-cells come from the channels of their cell ("sub-pixel convolution", arXiv 1609.05158):
        at a fraction of the cost of convolutions at that resolution.
        """
        one = len(self.in_features) == 1
        output = branch(features[self.in_features[0]] if one else features)
        return F.pixel_shuffle(output, self.upscale) if self.upscale > 1 else output

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> logits (N, C, h, w)."""
        return {self.label: self.run(self.get_submodule(self.label), features)}

    def targets(self, labels: BatchLabels) -> Targets:
        """Labels (N, H, W) int64 of the padded input; padding and unlabelled images are ignored.

        And ``confidence`` (N, H, W), if some are not sure.
        """
        confidence = labels.confidence_map(self.label)
        return {
            self.label: labels.label_map(self.label, self.ignore_value),
            **({} if confidence is None else {"confidence": confidence}),
        }

    def unlabelled(self, labels: BatchLabels) -> Tensor:
        """(N,) bool; see :meth:`TaskHead.unlabelled`."""
        return torch.tensor([x.get(self.label) is None for x in labels.batched_inputs])

    def logits_and_labels(
        self, predictions: Predictions, targets: Targets
    ) -> tuple[Tensor, Tensor]:
        """Of heads of one probability, at the input's resolution: (N, H, W) float32 and int64."""
        labels = targets[self.label]
        logits = to_input_size(predictions[self.label], self.stride, tuple(labels.shape[1:]))
        return logits[:, 0], labels

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add probabilities (N, C, h, w), each of its own, still at this head's stride."""
        decoded.maps[self.label] = predictions[self.label].float().sigmoid()

    def postprocess(
        self, decoded: Decoded, index: int, image_size: Size, output_size: Size
    ) -> dict[str, Any]:
        """-> ``label``: the map at the output size; see ``has_channels``."""
        maps = resize_maps(decoded.maps[self.label][index], self.stride, image_size, output_size)
        return {self.label: maps if self.has_channels else maps[0]}

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average the logits."""
        return {self.label: (predictions[self.label] + flipped[self.label].flip(-1)) / 2}

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """(N, H, W): 1 where the label is 1."""
        return {self.label: (targets[self.label] == 1).float()}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """(N, h, w): probabilities."""
        return {self.label: predictions[self.label].float().sigmoid()[:, 0]}


class LabelMapHead(DenseHead):
    """Base of heads that give every pixel one of several classes, learned by cross-entropy.

    Attributes:
        loss_name: key of the loss.
    """

    loss_name: ClassVar[str]
    has_channels: ClassVar[bool] = True

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        loss_weight: float = 1.0,
        loss_stride: int = 1,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            num_classes: classes, background included if it is one.
            loss_weight: weight of the cross-entropy.
            loss_stride: learn from every n-th pixel in each axis.
            **kwargs: see :class:`DenseHead`.

        Raises:
            ValueError: ``loss_stride`` does not divide the stride of the predictions.
        """
        super().__init__(input_shape, **kwargs)
        if loss_stride < 1 or self.stride % loss_stride:
            raise ValueError(
                f"LOSS_STRIDE of {type(self).__name__}: found {loss_stride}, expected a divisor of "
                f"{self.stride}, the stride of its predictions"
            )
        self.num_classes = num_classes
        self.loss_weight, self.loss_stride = loss_weight, loss_stride
        self.add_module(self.label, self.branch(num_classes))

    def targets(self, labels: BatchLabels) -> Targets:
        """See :class:`DenseHead`; ``hidden`` as of :func:`with_hidden_classes`."""
        hidden = tuple(x.get(f"{self.label}_hidden") for x in labels.batched_inputs)
        return {**super().targets(labels), "hidden": hidden}

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """The cross-entropy under ``loss_name``."""
        labels = every_nth_pixel(targets[self.label], self.loss_stride)
        scale = self.stride // self.loss_stride
        logits = to_input_size(predictions[self.label], scale, tuple(labels.shape[1:]))
        logits = with_hidden_classes(logits, targets.get("hidden", ()))
        weight = targets.get("confidence")
        weight = None if weight is None else every_nth_pixel(weight, self.loss_stride)
        loss = masked_cross_entropy(logits, labels, self.ignore_value, weight)
        return {self.loss_name: loss * self.loss_weight}

    def distill(self, predictions: Predictions, lesson: Lesson) -> Tensor:
        """See :meth:`TaskHead.distill`: the classes' probabilities, at this head's stride."""
        logits, taught = predictions[self.label], lesson.predictions[self.label]
        return distilled_cross_entropy(logits, taught, lesson.where) * self.loss_weight

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add the logits (N, num_classes, h, w), still at this head's stride."""
        decoded.maps[self.label] = predictions[self.label].float()

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """(N, H, W): class ids scaled to [0, 1]."""
        labels = targets[self.label]
        scaled = labels.float().masked_fill(labels == self.ignore_value, 0)
        return {self.label: scaled / max(self.num_classes - 1, 1)}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """(N, h, w): one minus the probability of class 0."""
        return {self.label: 1 - predictions[self.label].float().softmax(1)[:, 0]}


def with_hidden_classes(logits: Tensor, hidden: Sequence[Tensor | None]) -> Tensor:
    """Logits of the classes as an image's dataset labels them.

    A class that it does not label is background, class 0, in its maps: the probability of
    background becomes the sum of its own and theirs ("marginal loss" of Fidon et al., arXiv
    2107.02314, and Shi et al., arXiv 2007.03868).

    Args:
        logits: (N, C, h, w).
        hidden: per image (C,) bool, True for these classes; ``None`` = all are labelled.

    Returns:
        (N, C, h, w), -inf for hidden classes, in float32; ``logits`` itself if all are labelled.
    """
    if all(classes is None for classes in hidden):
        return logits
    result = []
    for image, classes in zip(logits.float(), hidden, strict=True):
        if classes is not None:
            classes = classes.to(image.device)[:, None, None]
            background = image[1:].masked_fill(~classes[1:], float("-inf"))
            background = torch.cat([image[:1], background]).logsumexp(0, keepdim=True)
            image = torch.cat([background, image[1:].masked_fill(classes[1:], float("-inf"))])
        result.append(image)
    return torch.stack(result)


def every_nth_pixel(labels: Tensor, stride: int) -> Tensor:
    """Labels on a coarser grid: of each block of pixels the one in the middle.

    With an even stride the middle lies between pixels; images take the one before it and the one
    after it in turn, or all edges would be learned half a pixel off.

    Args:
        labels: (N, H, W).
        stride: pixels per block, in each axis.

    Returns:
        (N, h, w).
    """
    if stride == 1:
        return labels
    firsts = [(stride - 1 + index % 2) // 2 for index in range(len(labels))]
    height, width = (size // stride * stride for size in labels.shape[1:])
    return torch.stack(
        [
            image[first:height:stride, first:width:stride]
            for image, first in zip(labels, firsts, strict=True)
        ]
    )


def add_branch_config(node: CfgNode, conv_dim: int) -> None:
    """Declare the keys that every dense head has."""
    # Finest first. MCN's backbones have "p2" alone; with a whole pyramid, Panoptic FPN's
    # ["p2", "p3", "p4", "p5"] see more of the image.
    node.IN_FEATURES = ["p2"]
    node.CONV_DIM = conv_dim
    # "BN" or "GN" help short schedules, as in the other heads.
    node.NORM = ""


def node_arguments(cfg: CfgNode, name: str, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
    """The keys of ``cfg.MODEL[name]`` in lower case, as arguments of a head's ``__init__``.

    ``IN_FEATURES`` becomes ``input_shape``: those of the backbone's outputs.
    """
    arguments = {key.lower(): value for key, value in cfg.MODEL[name].items()}
    names = arguments.pop("in_features")
    shapes = dense_shapes(input_shape, names, f"MODEL.{name}.IN_FEATURES")
    return {"input_shape": shapes, **arguments}


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
        output_size: (h, w) requested.

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
