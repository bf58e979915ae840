"""Heads that give every pixel the probability of one thing, whatever it is.

One logit a (sub-)cell, learnt at the input's resolution, with an ignored label.
"""

from __future__ import annotations

from typing import Any, ClassVar

from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.heads.base import Decoded, Predictions, Targets
from d2_multitask.heads.dense import resize_maps, to_input_size
from d2_multitask.heads.single_map import SingleMapHead


class BinaryMapHead(SingleMapHead):
    """Base of boundaries and of the foreground; subclasses say how they learn.

    Attributes:
        label: key of the labels in ``batched_inputs``, of the answer in the results, and of the
            layers.
        prior_logit: what a fresh map starts at.
    """

    prior_logit: ClassVar[float] = 0.0

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dim: int,
        norm: str = "",
        upscale: int = 1,
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            conv_dim: channels of the convolutions; 0 = a linear layer for each cell.
            norm: normalisation after them.
            upscale: sub-cells a cell predicts along each side.
            ignore_value: label that costs nothing.
        """
        super().__init__(input_shape, upscale)
        self.ignore_value = ignore_value
        self.add_module(self.label, self.branch(conv_dim, 1, norm, bias=self.prior_logit))

    def logits_and_labels(
        self, predictions: Predictions, targets: Targets
    ) -> tuple[Tensor, Tensor]:
        """Both at the input's resolution: (N, H, W) float32 and (N, H, W) int64."""
        labels = targets[self.label]
        logits = to_input_size(predictions[self.label], self.stride, tuple(labels.shape[1:]))
        return logits[:, 0], labels

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add probabilities (N, 1, h, w), still at this head's stride."""
        decoded.maps[self.label] = predictions[self.label].float().sigmoid()

    def postprocess(
        self,
        decoded: Decoded,
        index: int,
        image_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> dict[str, Any]:
        """-> (height, width) probabilities at the output size."""
        maps = decoded.maps[self.label][index]
        return {self.label: resize_maps(maps, self.stride, image_size, output_size)[0]}

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """(N, H, W): 1 where the label is 1."""
        return {self.label: (targets[self.label] == 1).float()}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """(N, h, w): probabilities."""
        return {self.label: predictions[self.label].float().sigmoid()[:, 0]}
