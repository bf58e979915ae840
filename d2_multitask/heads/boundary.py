"""The boundary task: the probability that an object boundary runs through a pixel.

Boundaries are one pixel wide and are scored within a few pixels, so a stride-4 cell is too coarse
for them: each cell predicts its sub-cells, and learning happens at the input's resolution, where
the labels are. That costs one channel; bringing the labels down to the cells instead (a maximum
over each cell, lest lines vanish) would thicken them.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.heads.base import Decoded, Predictions, Targets
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.heads.dense import (
    DenseHead,
    add_branch_config,
    branch_arguments,
    resize_maps,
    to_input_size,
)
from d2_multitask.losses import balanced_binary_cross_entropy
from d2_multitask.targets.dense import pad_label_maps

# A fresh map starts at this probability, about the share of boundary pixels after balancing.
_PRIOR_LOGIT = -1.0


@TASK_HEAD_REGISTRY.register("boundary")
class BoundaryHead(DenseHead):
    """Boundary detection, learnt by class-balanced binary cross-entropy."""

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dim: int,
        norm: str = "",
        upscale: int = 1,
        positive_weight: float = 0.0,
        ignore_value: int = 255,
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            conv_dim: channels of the convolutions.
            norm: normalisation after them.
            upscale: sub-cells a cell predicts along each side.
            positive_weight: see :func:`d2_multitask.losses.balanced_binary_cross_entropy`.
            ignore_value: label that costs nothing.
            loss_weight: weight of the loss.
        """
        super().__init__(input_shape, upscale)
        self.positive_weight, self.ignore_value = positive_weight, ignore_value
        self.loss_weight = loss_weight
        self.boundary = self.branch(conv_dim, 1, norm, bias=_PRIOR_LOGIT)

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.BOUNDARY_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.BOUNDARY_HEAD = node = CfgNode()
        add_branch_config(node, conv_dim=64)
        # Sub-cells along a cell's side; 4 = the input's own resolution.
        node.UPSCALE = 4
        # Weight of boundary pixels against 1 minus it for all others: ASTMT's value and that of the
        # work after it. 0 = HED's, from the batch's own shares.
        node.POSITIVE_WEIGHT = 0.95
        node.IGNORE_VALUE = 255
        # The loss is a weighted mean, so it starts at the size of the others.
        node.LOSS_WEIGHT = 1.0

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``."""
        node = cfg.MODEL.BOUNDARY_HEAD
        return {
            **branch_arguments(node, "MODEL.BOUNDARY_HEAD", input_shape),
            "upscale": node.UPSCALE,
            "positive_weight": node.POSITIVE_WEIGHT,
            "ignore_value": node.IGNORE_VALUE,
            "loss_weight": node.LOSS_WEIGHT,
        }

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> boundary logits (N, 1, h, w)."""
        return {"boundary": self.run(self.boundary, features)}

    def targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Targets:
        """Labels (N, H, W) int64 of the padded input; padding and unlabelled images are ignored."""
        labels = pad_label_maps(
            [x.get("boundary") for x in batched_inputs],
            tuple(images.tensor.shape[-2:]),
            self.ignore_value,
            images.tensor.device,
        )
        return {"boundary": labels}

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_boundary``."""
        labels = targets["boundary"]
        logits = to_input_size(predictions["boundary"], self.stride, tuple(labels.shape[1:]))
        loss = balanced_binary_cross_entropy(
            logits[:, 0], labels, self.positive_weight, self.ignore_value
        )
        return {"loss_boundary": loss * self.loss_weight}

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add ``boundary`` (N, 1, h, w), probabilities."""
        decoded.maps["boundary"] = predictions["boundary"].float().sigmoid()

    def postprocess(
        self,
        decoded: Decoded,
        index: int,
        image_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> dict[str, Any]:
        """-> ``{"boundary": (height, width)}`` probabilities at the output size."""
        maps = decoded.maps["boundary"][index]
        return {"boundary": resize_maps(maps, self.stride, image_size, output_size)[0]}

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average the logits."""
        return {"boundary": (predictions["boundary"] + flipped["boundary"].flip(-1)) / 2}

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """``boundary`` (N, H, W): 1 on boundaries."""
        return {"boundary": (targets["boundary"] == 1).float()}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """``boundary`` (N, h, w): probabilities."""
        return {"boundary": predictions["boundary"].float().sigmoid()[:, 0]}
