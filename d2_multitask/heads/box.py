"""The detection task: box sizes at object centres (CenterNet, section 4)."""

from __future__ import annotations

from typing import Any, ClassVar

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.heads.base import (
    Branch,
    Decoded,
    Predictions,
    Targets,
    TaskHead,
    batch_cells,
    batch_objects,
    feature_shape,
)
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.losses import gathered_l1_loss
from d2_multitask.targets.decode import decode_boxes, gather_cells


@TASK_HEAD_REGISTRY.register("det")
class BoxHead(TaskHead):
    """Width and height of the box around each centre; learnt from every labelled object."""

    requires: ClassVar[tuple[str, ...]] = ("center",)
    read_at_cells: ClassVar[tuple[str, ...]] = ("wh",)

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        in_feature: str,
        conv_dim: int,
        norm: str = "",
        assign_radius: int = 0,
        wh_weight: float = 0.1,
        wh_scale: float = 1.0,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature map.
            in_feature: name of the backbone output to read.
            conv_dim: channels of the branch's 3x3 convolution.
            norm: normalisation after it.
            assign_radius: see :func:`d2_multitask.targets.centers.assign_cells`.
            wh_weight: weight of the size's L1 loss.
            wh_scale: the last layer's output times this is the size in stride units.
        """
        super().__init__()
        self.in_feature, self.stride = in_feature, input_shape.stride
        self.assign_radius, self.wh_weight, self.wh_scale = assign_radius, wh_weight, wh_scale
        self.wh = Branch(input_shape.channels, conv_dim, 2, norm=norm)

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.DET_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.DET_HEAD = node = CfgNode()
        node.CONV_DIM = 64
        # Sizes are in cells and an order of magnitude larger than offsets, hence CenterNet's 0.1.
        node.WH_WEIGHT = 0.1
        # Cells per unit of the last layer's output. Adam moves a weight by about the learning rate
        # whatever the loss, so outputs of tens of cells take it thousands of iterations: 16 brings
        # them within reach of short schedules. 1 belongs to CenterNet's published weights.
        node.WH_SCALE = 1.0

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``."""
        center = cfg.MODEL.CENTER_HEAD
        return {
            "input_shape": feature_shape(
                input_shape, center.IN_FEATURE, "MODEL.CENTER_HEAD.IN_FEATURE"
            ),
            "in_feature": center.IN_FEATURE,
            "norm": center.NORM,
            "assign_radius": center.ASSIGN_RADIUS,
            "conv_dim": cfg.MODEL.DET_HEAD.CONV_DIM,
            "wh_weight": cfg.MODEL.DET_HEAD.WH_WEIGHT,
            "wh_scale": cfg.MODEL.DET_HEAD.WH_SCALE,
        }

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> wh (N, 2, h, w), (width, height), stride units."""
        return {"wh": self.wh(features[self.in_feature]) * self.wh_scale}

    def targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Targets:
        """wh (A, 2) at the assigned cells, stride units."""
        objects = batch_objects(batched_inputs, images, self.stride)
        cells = batch_cells(batched_inputs, images, self.stride, self.assign_radius)
        return {"cells": cells, "wh": objects.wh[cells.object_index]}

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_det_wh``."""
        wh = gathered_l1_loss(targets["cells"].gather(predictions["wh"]), targets["wh"])
        return {"loss_det_wh": wh * self.wh_weight}

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add ``pred_boxes`` (N, P, 4), xyxy, pixels of the network input."""
        wh = gather_cells(predictions["wh"].float(), decoded.peaks.xy)
        decoded.objects["pred_boxes"] = decode_boxes(decoded.center_xy, wh) * self.stride

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average the sizes."""
        return {"wh": (predictions["wh"] + flipped["wh"].flip(-1)) / 2}
