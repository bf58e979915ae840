"""The detection task: box sizes at object centres (CenterNet, section 4)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.data.labels.instances import BoxLabel
from d2_multitask.heads.base import Decoded, Lesson, Predictions, Targets
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.heads.center import ObjectGrid, ObjectHead
from d2_multitask.heads.refine import BoxRefinement
from d2_multitask.losses import (
    average_over_workers,
    gathered_giou_loss,
    gathered_l1_loss,
    giou_of_pairs,
)
from d2_multitask.targets.decode import boxes_from_ltrb, decode_boxes, values_at
from d2_multitask.targets.encode import BatchLabels

BOX_LOSSES = ("l1", "giou")
# Distance to each side, in cells, that a fresh network with GIoU predicts: about 60 pixels.
_INITIAL_DISTANCE = 8.0


@TASK_HEAD_REGISTRY.register("det")
class BoxHead(ObjectHead):
    """The box around each centre; learned from every labelled object."""

    labels: ClassVar = (BoxLabel,)
    requires: ClassVar[tuple[str, ...]] = ("center",)
    teacher_keys: ClassVar = ("MODEL.DET_HEAD.BOX_LOSS",)

    @configurable
    def __init__(
        self,
        grid: ObjectGrid,
        *,
        conv_dim: int = 64,
        wh_weight: float = 0.1,
        wh_scale: float = 1.0,
        box_loss: str = "l1",
        giou_weight: float = 2.0,
        refinement: BoxRefinement | None = None,
    ) -> None:
        """
        Args:
            grid: the feature map.
            conv_dim: channels of the branch's 3x3 convolution.
            wh_weight: weight of the size's L1 loss.
            wh_scale: stride units per unit of the prediction.
            box_loss: ``"l1"`` on sizes, or ``"giou"`` on the distances from the cell's centre to
                the box's sides.
            giou_weight: weight of the GIoU loss.
            refinement: of the found boxes; ``None`` = they stay as they are.

        Raises:
            ValueError: unknown ``box_loss``.
        """
        super().__init__(grid, conv_dim)
        if box_loss not in BOX_LOSSES:
            raise ValueError(
                f"MODEL.DET_HEAD.BOX_LOSS: found {box_loss!r}, expected one of {BOX_LOSSES}"
            )
        self.wh_weight, self.wh_scale, self.giou_weight = wh_weight, wh_scale, giou_weight
        self.uses_giou = box_loss == "giou"
        self.refinement = refinement
        self.reads_decoded = refinement is not None
        if self.uses_giou:
            self.ltrb = self.cell_branch(4, bias=_INITIAL_DISTANCE / wh_scale)
        else:
            self.wh = self.cell_branch(2)

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
        # A second look at the found boxes, see `d2_multitask.heads.refine`.
        node.REFINE = CfgNode()
        # How often each box is refined; 0 = never, and there are no layers for it.
        node.REFINE.STAGES = 0
        node.REFINE.GIOU_WEIGHT = 10.0
        node.REFINE.QUALITY_WEIGHT = 1.0
        # p of the score, (centre's score) ** (1 - p) * (predicted IoU) ** p.
        node.REFINE.SCORE_POWER_TEST = 0.5

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``."""
        node, refine = cfg.MODEL.DET_HEAD, cfg.MODEL.DET_HEAD.REFINE
        grid = ObjectGrid.from_config(cfg, input_shape)
        refinement = refine.STAGES and BoxRefinement(
            grid.channels,
            grid.stride,
            stages=refine.STAGES,
            norm=grid.norm,
            giou_weight=refine.GIOU_WEIGHT,
            quality_weight=refine.QUALITY_WEIGHT,
            score_power=refine.SCORE_POWER_TEST,
        )
        return {
            "grid": grid,
            "conv_dim": node.CONV_DIM,
            "wh_weight": node.WH_WEIGHT,
            "wh_scale": node.WH_SCALE,
            "box_loss": node.BOX_LOSS,
            "giou_weight": node.GIOU_WEIGHT,
            "refinement": refinement or None,
        }

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> wh (N, 2, h, w), (width, height), in ``wh_scale`` stride units.

        With GIoU: ltrb (N, 4, h, w), distances from the cell's centre to the left, top, right and
        bottom side, in the same unit, before softplus makes them positive. With a refinement also
        refine (N, C, h, w), which it reads.
        """
        feature = features[self.grid.in_feature]
        sizes = {"ltrb": self.ltrb(feature)} if self.uses_giou else {"wh": self.wh(feature)}
        return sizes if self.refinement is None else {**sizes, "refine": self.refinement(feature)}

    def targets(self, labels: BatchLabels) -> Targets:
        """wh (A, 2) and boxes (A, 4), xyxy, at the assigned cells, stride units."""
        cells = labels.cells(self.stride, self.grid.assign_radius)
        objects, of_cell = labels.objects(self.stride), cells.object_index
        targets = {
            "cells": cells,
            "index": cells.index,
            "wh": objects.wh[of_cell],
            "boxes": objects.boxes[of_cell],
        }
        if self.refinement is not None:
            targets["refine"] = self.refinement.targets(labels)
        return targets

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_det_wh`` or ``loss_det_giou``, and those of the refinement."""
        losses = self._losses_at_cells(predictions, targets)
        if self.refinement is not None:
            decoded = targets["decoded"]
            with torch.no_grad():
                boxes = self._boxes(predictions, decoded)
            losses |= self.refinement.losses(
                predictions["refine"], boxes, decoded, targets["refine"]
            )
        return losses

    def _losses_at_cells(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        index, weight = targets["index"], targets["cells"].weight
        if self.uses_giou:
            distances = F.softplus((predictions["ltrb"][index] * self.wh_scale).float())
            boxes = boxes_from_ltrb(targets["cells"].xy, distances)
            giou = gathered_giou_loss(boxes, targets["boxes"], weight)
            return {"loss_det_giou": giou * self.giou_weight}
        wh = gathered_l1_loss(predictions["wh"][index] * self.wh_scale, targets["wh"], weight)
        return {"loss_det_wh": wh * self.wh_weight}

    def distill(self, predictions: Predictions, lesson: Lesson) -> Tensor:
        """See :meth:`TaskHead.distill`: sizes or boxes at the teacher's objects."""
        weight, taught = lesson.objects * lesson.where, lesson.predictions
        scales = self.wh_scale, lesson.head.wh_scale
        if not self.uses_giou:
            wh = gathered_l1_loss(predictions["wh"] * scales[0], taught["wh"] * scales[1], weight)
            return wh * self.wh_weight
        rows, columns = (torch.arange(side, device=weight.device) for side in weight.shape[2:])
        xy = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)  # (h, w, 2)
        boxes = [
            boxes_from_ltrb(xy, F.softplus((ltrb * scale).float()).permute(0, 2, 3, 1))
            for ltrb, scale in zip((predictions["ltrb"], taught["ltrb"]), scales, strict=True)
        ]
        # At all cells: a GPU would be waited for to learn which ones count.
        loss = (1 - giou_of_pairs(*boxes)[0]) * weight[:, 0]
        return loss.sum() / average_over_workers((weight > 0).sum()) * self.giou_weight

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add ``pred_boxes`` (N, P, 4), xyxy, pixels of the network input."""
        boxes = self._boxes(predictions, decoded)
        if self.refinement is not None:
            boxes, scores = self.refinement.inference(
                predictions["refine"], boxes, decoded.objects["scores"]
            )
            # Ranks that only fill up the batch stay below the threshold, whatever their IoU.
            decoded.objects["scores"] = scores * decoded.found
        decoded.objects["pred_boxes"] = boxes * self.stride

    def _boxes(self, predictions: Predictions, decoded: Decoded) -> Tensor:
        """(N, P, 4) at the peaks, stride units."""
        cell = decoded.peaks.xy
        if self.uses_giou:
            distances = F.softplus(values_at(predictions["ltrb"], cell) * self.wh_scale)
            return boxes_from_ltrb(cell, distances)
        return decode_boxes(decoded.center_xy, values_at(predictions["wh"], cell) * self.wh_scale)

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average the sizes, or the distances, of which left and right change places.

        They are refined as the unflipped image wants it.
        """
        if self.uses_giou:
            mirrored = flipped["ltrb"].flip(-1)[:, [2, 1, 0, 3]]
            return {**predictions, "ltrb": (predictions["ltrb"] + mirrored) / 2}
        return {**predictions, "wh": (predictions["wh"] + flipped["wh"].flip(-1)) / 2}
