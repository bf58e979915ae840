"""The foreground task: the probability that a pixel belongs to an object, whatever object it is.

What it is drawn with depends on the feature map that it reads and on two keys:

- linear, for each patch: `CONV_DIM` 0 and `UPSCALE` the patch's side, on the tokens of a masked
  autoencoder's encoder (`build_mae_encoder_backbone`);
- mask decoder: the same on those of the autoencoder's decoder (`build_mae_decoder_backbone`);
- convolutional: `CONV_DIM` above 0 on a pyramid, of any backbone.
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
from d2_multitask.losses import dice_loss, masked_binary_cross_entropy
from d2_multitask.targets.dense import pad_label_maps


@TASK_HEAD_REGISTRY.register("foreground")
class ForegroundHead(DenseHead):
    """Binary segmentation, one logit a pixel, learnt by cross-entropy and Dice."""

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dim: int,
        norm: str = "",
        upscale: int = 1,
        ignore_value: int = 255,
        bce_weight: float = 1.0,
        dice_weight: float = 1.0,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            conv_dim: channels of the convolutions; 0 = a linear layer for each cell.
            norm: normalisation after them.
            upscale: sub-cells a cell predicts along each side.
            ignore_value: label that costs nothing.
            bce_weight: weight of the cross-entropy.
            dice_weight: weight of the Dice loss.
        """
        super().__init__(input_shape, upscale)
        self.ignore_value = ignore_value
        self.bce_weight, self.dice_weight = bce_weight, dice_weight
        self.foreground = self.branch(conv_dim, 1, norm)

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.FOREGROUND_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.FOREGROUND_HEAD = node = CfgNode()
        add_branch_config(node, conv_dim=64)
        # Sub-cells along a cell's side. 1: a stride-4 map is fine enough for whole objects. With
        # CONV_DIM 0 on an MAE's tokens: the side of a patch.
        node.UPSCALE = 1
        node.IGNORE_VALUE = 255
        # Equal weights, as in the salient-object networks that pair cross-entropy with an overlap
        # loss: the first is right about pixels, the second about small objects.
        node.BCE_WEIGHT = 1.0
        node.DICE_WEIGHT = 1.0

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``."""
        node = cfg.MODEL.FOREGROUND_HEAD
        return {
            **branch_arguments(node, "MODEL.FOREGROUND_HEAD", input_shape),
            "upscale": node.UPSCALE,
            "ignore_value": node.IGNORE_VALUE,
            "bce_weight": node.BCE_WEIGHT,
            "dice_weight": node.DICE_WEIGHT,
        }

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> foreground logits (N, 1, h, w)."""
        return {"foreground": self.run(self.foreground, features)}

    def targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Targets:
        """Labels (N, H, W) int64 of the padded input; padding and unlabelled images are ignored."""
        labels = pad_label_maps(
            [x.get("foreground") for x in batched_inputs],
            tuple(images.tensor.shape[-2:]),
            self.ignore_value,
            images.tensor.device,
        )
        return {"foreground": labels}

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_foreground_bce`` and ``loss_foreground_dice``, at the input's resolution."""
        labels = targets["foreground"]
        logits = to_input_size(predictions["foreground"], self.stride, tuple(labels.shape[1:]))
        bce = masked_binary_cross_entropy(logits[:, 0], labels, self.ignore_value)
        dice = dice_loss(logits[:, 0], labels, self.ignore_value)
        return {
            "loss_foreground_bce": bce * self.bce_weight,
            "loss_foreground_dice": dice * self.dice_weight,
        }

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add ``foreground`` (N, 1, h, w), probabilities."""
        decoded.maps["foreground"] = predictions["foreground"].float().sigmoid()

    def postprocess(
        self,
        decoded: Decoded,
        index: int,
        image_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> dict[str, Any]:
        """-> ``{"foreground": (height, width)}`` probabilities at the output size."""
        maps = decoded.maps["foreground"][index]
        return {"foreground": resize_maps(maps, self.stride, image_size, output_size)[0]}

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average the logits."""
        return {"foreground": (predictions["foreground"] + flipped["foreground"].flip(-1)) / 2}

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """``foreground`` (N, H, W): 1 on objects."""
        return {"foreground": (targets["foreground"] == 1).float()}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """``foreground`` (N, h, w): probabilities."""
        return {"foreground": predictions["foreground"].float().sigmoid()[:, 0]}
