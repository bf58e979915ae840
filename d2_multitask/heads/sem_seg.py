"""The segmentation task: a class for every pixel, from the same stride-4 features as the centres.

The MCN paper adds one more head next to CenterNet's; its exact form is not published. This one is
CenterNet's branch (3x3 and 1x1 convolution) with Detectron2's way of learning and answering: logits
brought to the input's resolution, cross-entropy with an ignored label.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.heads.base import (
    Branch,
    Decoded,
    Predictions,
    Targets,
    TaskHead,
    feature_shape,
)
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.losses import masked_cross_entropy
from d2_multitask.targets.dense import pad_label_maps


@TASK_HEAD_REGISTRY.register("seg")
class SemSegHead(TaskHead):
    """Semantic segmentation. Classes, ignored label and loss weight: ``MODEL.SEM_SEG_HEAD``."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        in_feature: str,
        num_classes: int,
        conv_dim: int,
        norm: str = "",
        ignore_value: int = 255,
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature map.
            in_feature: name of the backbone output to read.
            num_classes: semantic classes, background included.
            conv_dim: channels of the 3x3 convolution.
            norm: normalisation after it.
            ignore_value: label that costs nothing.
            loss_weight: weight of the cross-entropy.
        """
        super().__init__()
        self.in_feature, self.stride, self.num_classes = in_feature, input_shape.stride, num_classes
        self.ignore_value, self.loss_weight = ignore_value, loss_weight
        self.sem_seg = Branch(
            input_shape.channels, conv_dim, num_classes, norm=norm, weight_std=0.01
        )

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.SEG_HEAD``; see :meth:`TaskHead.add_config`."""
        # Classes, ignored label, width, norm and weight are Detectron2's own keys of this node.
        cfg.MODEL.SEG_HEAD = node = CfgNode()
        # The same map that the centre head reads.
        node.IN_FEATURE = "p2"

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``."""
        name, node = cfg.MODEL.SEG_HEAD.IN_FEATURE, cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": feature_shape(input_shape, name, "MODEL.SEG_HEAD.IN_FEATURE"),
            "in_feature": name,
            "num_classes": node.NUM_CLASSES,
            "conv_dim": node.CONVS_DIM,
            "norm": node.NORM,
            "ignore_value": node.IGNORE_VALUE,
            "loss_weight": node.LOSS_WEIGHT,
        }

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> logits (N, num_classes, h, w)."""
        return {"sem_seg": self.sem_seg(features[self.in_feature])}

    def targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Targets:
        """Labels (N, H, W) int64 of the padded input; padding and unlabelled images are ignored."""
        padded = tuple(images.tensor.shape[-2:])
        labels = pad_label_maps(
            [x.get("sem_seg") for x in batched_inputs],
            padded,
            self.ignore_value,
            images.tensor.device,
        )
        return {"sem_seg": labels}

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_seg``."""
        labels = targets["sem_seg"]
        logits = F.interpolate(
            predictions["sem_seg"].float(),
            scale_factor=self.stride,
            mode="bilinear",
            align_corners=False,
        )[..., : labels.shape[1], : labels.shape[2]]
        loss = masked_cross_entropy(logits, labels, self.ignore_value)
        return {"loss_seg": loss * self.loss_weight}

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add ``sem_seg`` logits (N, num_classes, h, w), still at this head's stride."""
        decoded.maps["sem_seg"] = predictions["sem_seg"].float()

    def postprocess(
        self,
        decoded: Decoded,
        index: int,
        image_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> dict[str, Any]:
        """-> ``{"sem_seg": (num_classes, height, width)}`` logits at the output size."""
        return {
            "sem_seg": resize_logits(
                decoded.maps["sem_seg"][index], self.stride, image_size, output_size
            )
        }

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average the logits."""
        return {"sem_seg": (predictions["sem_seg"] + flipped["sem_seg"].flip(-1)) / 2}

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """``sem_seg`` (N, H, W): class ids scaled to [0, 1]."""
        labels = targets["sem_seg"].float()
        labels = labels.masked_fill(targets["sem_seg"] == self.ignore_value, 0)
        return {"sem_seg": labels / max(self.num_classes - 1, 1)}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """``sem_seg`` (N, h, w): one minus the probability of class 0."""
        return {"sem_seg": 1 - predictions["sem_seg"].float().softmax(1)[:, 0]}


def resize_logits(
    logits: Tensor, stride: int, image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """From the prediction grid to the output image in one interpolation where that is exact.

    Args:
        logits: (C, h, w) on the padded grid.
        stride: input pixels per cell.
        image_size: (h, w) of the network input before padding.
        output_size: (h, w) asked for.

    Returns:
        (C, height, width) with (height, width) = ``output_size``.
    """

    def resize(logits: Tensor, **size: Any) -> Tensor:
        return F.interpolate(logits[None], mode="bilinear", align_corners=False, **size)[0]

    height, width = image_size
    if height % stride == 0 and width % stride == 0:
        return resize(logits[:, : height // stride, : width // stride], size=output_size)
    # The image ends inside a cell: cut it at the input's resolution, then resize.
    return sem_seg_postprocess(resize(logits, scale_factor=stride), image_size, *output_size)
