"""The foreground task: the probability that a pixel belongs to an object, whatever object it is.

The layers depend on the feature map that it reads and on two keys:

- linear, for each patch: `CONV_DIM` 0 and `UPSCALE` the patch's side, on the tokens of a masked
  autoencoder's encoder (`build_mae_encoder_backbone`);
- mask decoder: the same on those of the autoencoder's decoder (`build_mae_decoder_backbone`);
- convolutional: `CONV_DIM` above 0 on a pyramid, of any backbone.
"""

from __future__ import annotations

from typing import Any, ClassVar

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor

from d2_multitask.data.labels.foreground import ForegroundLabel
from d2_multitask.heads.base import Lesson, Predictions, Targets
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.heads.dense import DenseHead, add_branch_config
from d2_multitask.losses import (
    dice_loss,
    distilled_cross_entropy,
    masked_binary_cross_entropy,
)


@TASK_HEAD_REGISTRY.register("foreground")
class ForegroundHead(DenseHead):
    """Binary segmentation, one logit per pixel, learned by cross-entropy and Dice."""

    labels: ClassVar = (ForegroundLabel,)
    label: ClassVar[str] = "foreground"
    node_name: ClassVar[str] = "FOREGROUND_HEAD"

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        bce_weight: float = 1.0,
        dice_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            bce_weight: weight of the cross-entropy.
            dice_weight: weight of the Dice loss.
            **kwargs: see :class:`DenseHead`.
        """
        super().__init__(input_shape, **kwargs)
        self.bce_weight, self.dice_weight = bce_weight, dice_weight
        self.foreground = self.branch(1)

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.FOREGROUND_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.FOREGROUND_HEAD = node = CfgNode()
        add_branch_config(node, conv_dim=64)
        # Depthwise 3x3 convolutions, of several maps from the coarsest to the finest: small, fast.
        node.SEPARABLE = False
        # Sub-cells along a cell's side. 1: a stride-4 map is fine enough for whole objects. With
        # CONV_DIM 0 on an MAE's tokens: the side of a patch.
        node.UPSCALE = 1
        # Equal weights, as in the salient-object networks that pair cross-entropy with an overlap
        # loss: the first is right about pixels, the second about small objects.
        node.BCE_WEIGHT = 1.0
        node.DICE_WEIGHT = 1.0

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_foreground_bce`` and ``loss_foreground_dice``, at the input's resolution."""
        logits, labels = self.logits_and_labels(predictions, targets)
        options = self.ignore_value, targets.get("confidence")
        bce = masked_binary_cross_entropy(logits, labels, *options)
        dice = dice_loss(logits, labels, *options)
        return {
            "loss_foreground_bce": bce * self.bce_weight,
            "loss_foreground_dice": dice * self.dice_weight,
        }

    def distill(self, predictions: Predictions, lesson: Lesson) -> Tensor:
        """See :meth:`TaskHead.distill`: the probabilities, at this head's stride."""
        logits, taught = predictions[self.label], lesson.predictions[self.label]
        return distilled_cross_entropy(logits, taught, lesson.where) * self.bce_weight
