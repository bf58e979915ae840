"""Heads that give every pixel one of several classes, whatever the classes are.

Detectron2's way of learning and answering: logits brought to the input's resolution, cross-entropy
with an ignored label.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.heads.base import Decoded, Predictions, Targets
from d2_multitask.heads.dense import resize_maps, to_input_size
from d2_multitask.heads.single_map import SingleMapHead
from d2_multitask.losses import masked_cross_entropy


class LabelMapHead(SingleMapHead):
    """Base of semantic segmentation and its relatives.

    Attributes:
        label: key of the labels in ``batched_inputs`` and of the answer in the results.
        loss_name: key of the loss.
    """

    loss_name: ClassVar[str]

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dim: int,
        norm: str = "",
        ignore_value: int = 255,
        loss_weight: float = 1.0,
        loss_stride: int = 1,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            num_classes: classes, background included if it is one.
            conv_dim: channels of the convolutions.
            norm: normalisation after them.
            ignore_value: label that costs nothing.
            loss_weight: weight of the cross-entropy.
            loss_stride: learn from every so many-th pixel in each axis.

        Raises:
            ValueError: ``loss_stride`` does not divide the stride of the predictions.
        """
        super().__init__(input_shape)
        if loss_stride < 1 or self.stride % loss_stride:
            raise ValueError(
                f"LOSS_STRIDE of {type(self).__name__}: found {loss_stride}, expected a divisor of "
                f"{self.stride}, the stride of its predictions"
            )
        self.num_classes, self.ignore_value = num_classes, ignore_value
        self.loss_weight, self.loss_stride = loss_weight, loss_stride
        self.add_module(self.label, self.branch(conv_dim, num_classes, norm))

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """The cross-entropy under ``loss_name``."""
        labels = every_nth_pixel(targets[self.label], self.loss_stride)
        scale = self.stride // self.loss_stride
        logits = to_input_size(predictions[self.label], scale, tuple(labels.shape[1:]))
        loss = masked_cross_entropy(logits, labels, self.ignore_value)
        return {self.loss_name: loss * self.loss_weight}

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add the logits (N, num_classes, h, w), still at this head's stride."""
        decoded.maps[self.label] = predictions[self.label].float()

    def postprocess(
        self,
        decoded: Decoded,
        index: int,
        image_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> dict[str, Any]:
        """-> (num_classes, height, width) logits at the output size."""
        logits = decoded.maps[self.label][index]
        return {self.label: resize_maps(logits, self.stride, image_size, output_size)}

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """(N, H, W): class ids scaled to [0, 1]."""
        labels = targets[self.label]
        scaled = labels.float().masked_fill(labels == self.ignore_value, 0)
        return {self.label: scaled / max(self.num_classes - 1, 1)}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """(N, h, w): one minus the probability of class 0."""
        return {self.label: 1 - predictions[self.label].float().softmax(1)[:, 0]}


def every_nth_pixel(labels: Tensor, stride: int) -> Tensor:
    """Labels on a coarser grid: of each block of pixels the one in the middle.

    With an even stride the middle lies between pixels; images take the one before it and the one
    after it in turn, lest all edges be learnt half a pixel aside.

    Args:
        labels: (N, H, W).
        stride: pixels a block, in each axis.

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
