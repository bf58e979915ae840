"""The detection task: box sizes at object centres (CenterNet, section 4)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
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
from d2_multitask.losses import gathered_giou_loss, gathered_l1_loss
from d2_multitask.targets.decode import boxes_from_ltrb, decode_boxes, gather_cells

BOX_LOSSES = ("l1", "giou")
# Distance to each side, in cells, that a fresh network with GIoU predicts: about 60 pixels.
_INITIAL_DISTANCE = 8.0


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
        box_loss: str = "l1",
        giou_weight: float = 2.0,
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
            box_loss: ``"l1"`` on sizes, or ``"giou"`` on the distances from the cell's centre to
                the box's sides.
            giou_weight: weight of the GIoU loss.

        Raises:
            ValueError: unknown ``box_loss``.
        """
        super().__init__()
        if box_loss not in BOX_LOSSES:
            raise ValueError(
                f"MODEL.DET_HEAD.BOX_LOSS: found {box_loss!r}, expected one of {BOX_LOSSES}"
            )
        self.in_feature, self.stride = in_feature, input_shape.stride
        self.assign_radius, self.wh_weight, self.wh_scale = assign_radius, wh_weight, wh_scale
        self.giou_weight, self.uses_giou = giou_weight, box_loss == "giou"
        if self.uses_giou:
            bias = _INITIAL_DISTANCE / wh_scale
            self.ltrb = Branch(input_shape.channels, conv_dim, 4, norm=norm, bias=bias)
            self.read_at_cells = ("ltrb",)
        else:
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
        # "l1": CenterNet's sizes. "giou": left, top, right and bottom distances under the GIoU
        # loss, which counts small boxes as much as large ones (CenterNet2); another last layer.
        node.BOX_LOSS = "l1"
        # CenterNet2's weight beside its heatmap loss.
        node.GIOU_WEIGHT = 2.0

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
            "box_loss": cfg.MODEL.DET_HEAD.BOX_LOSS,
            "giou_weight": cfg.MODEL.DET_HEAD.GIOU_WEIGHT,
        }

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> wh (N, 2, h, w), (width, height), stride units.

        With GIoU: ltrb (N, 4, h, w), distances from the cell's centre to the left, top, right and
        bottom side, stride units, still to be made positive by softplus.
        """
        if self.uses_giou:
            return {"ltrb": self.ltrb(features[self.in_feature]) * self.wh_scale}
        return {"wh": self.wh(features[self.in_feature]) * self.wh_scale}

    def targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Targets:
        """wh (A, 2) and boxes (A, 4), xyxy, at the assigned cells, stride units."""
        objects = batch_objects(batched_inputs, images, self.stride)
        cells = batch_cells(batched_inputs, images, self.stride, self.assign_radius)
        index = cells.object_index
        return {"cells": cells, "wh": objects.wh[index], "boxes": objects.boxes[index]}

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_det_wh``, or ``loss_det_giou``."""
        if self.uses_giou:
            cells = targets["cells"]
            distances = F.softplus(cells.gather(predictions["ltrb"]).float())
            giou = gathered_giou_loss(boxes_from_ltrb(cells.xy, distances), targets["boxes"])
            return {"loss_det_giou": giou * self.giou_weight}
        wh = gathered_l1_loss(targets["cells"].gather(predictions["wh"]), targets["wh"])
        return {"loss_det_wh": wh * self.wh_weight}

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add ``pred_boxes`` (N, P, 4), xyxy, pixels of the network input."""
        if self.uses_giou:
            distances = F.softplus(gather_cells(predictions["ltrb"].float(), decoded.peaks.xy))
            boxes = boxes_from_ltrb(decoded.peaks.xy, distances)
            decoded.objects["pred_boxes"] = boxes * self.stride
            return
        wh = gather_cells(predictions["wh"].float(), decoded.peaks.xy)
        decoded.objects["pred_boxes"] = decode_boxes(decoded.center_xy, wh) * self.stride

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average the sizes, or the distances, of which left and right change places."""
        if self.uses_giou:
            mirrored = flipped["ltrb"].flip(-1)[:, [2, 1, 0, 3]]
            return {"ltrb": (predictions["ltrb"] + mirrored) / 2}
        return {"wh": (predictions["wh"] + flipped["wh"].flip(-1)) / 2}
