"""The centre head: where objects are. Box and pose heads read their answers at its peaks.

CenterNet ("Objects as Points", arXiv 1904.07850), section 3.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, batched_nms
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from d2_multitask.heads.base import (
    Branch,
    Decoded,
    Predictions,
    Targets,
    TaskHead,
    batch_cells,
    batch_ignored_cells,
    batch_objects,
    feature_shape,
    grid_size,
    image_cells,
)
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.losses import gathered_l1_loss, heatmap_focal_loss
from d2_multitask.targets.centers import cells_of
from d2_multitask.targets.decode import decode_boxes, find_peaks, gather_cells
from d2_multitask.targets.gaussian import draw_gaussians, object_radius

# A fresh heatmap starts at this probability: rare positives would otherwise drown in the first
# steps.
PRIOR_PROBABILITY = 0.1


def heatmap_bias() -> float:
    """Logit of the prior probability, -2.19 in CenterNet's code."""
    return float(torch.logit(torch.tensor(PRIOR_PROBABILITY)))


def average_flipped_logits(logits: Tensor, flipped: Tensor) -> Tensor:
    """Mean of two heatmaps in probability, as logits; ``flipped`` is flipped back first."""
    mean = (logits.float().sigmoid() + flipped.float().flip(-1).sigmoid()) / 2
    return torch.logit(mean, eps=1e-6)


@TASK_HEAD_REGISTRY.register("center")
class CenterHead(TaskHead):
    """Class heatmap of object centres, and the centre's offset inside its cell."""

    read_at_cells: ClassVar[tuple[str, ...]] = ("offset",)

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        in_feature: str,
        num_classes: int,
        conv_dim: int,
        norm: str = "",
        min_overlap: float = 0.7,
        radius_rule: str = "centernet",
        assign_radius: int = 0,
        heatmap_weight: float = 1.0,
        offset_weight: float = 1.0,
        topk: int = 100,
        score_threshold: float = 0.0,
        nms_threshold: float = 0.0,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature map.
            in_feature: name of the backbone output to read.
            num_classes: object classes.
            conv_dim: channels of each branch's 3x3 convolution.
            norm: normalisation after it.
            min_overlap: see :func:`d2_multitask.targets.gaussian.gaussian_radius`.
            radius_rule: ``"centernet"`` or ``"exact"``.
            assign_radius: see :func:`d2_multitask.targets.centers.assign_cells`.
            heatmap_weight: weight of the focal loss.
            offset_weight: weight of the offset's L1 loss.
            topk: most objects an image.
            score_threshold: objects below it are left out.
            nms_threshold: IoU above which the weaker of two boxes of a class goes; 0 = no NMS.
        """
        super().__init__()
        self.in_feature, self.stride, self.num_classes = in_feature, input_shape.stride, num_classes
        self.min_overlap, self.radius_rule, self.assign_radius = (
            min_overlap,
            radius_rule,
            assign_radius,
        )
        self.heatmap_weight, self.offset_weight = heatmap_weight, offset_weight
        self.topk, self.score_threshold, self.nms_threshold = topk, score_threshold, nms_threshold
        channels = input_shape.channels
        self.heatmap = Branch(
            channels, conv_dim, num_classes, norm=norm, bias=heatmap_bias(), weight_std=None
        )
        self.offset = Branch(channels, conv_dim, 2, norm=norm)

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.CENTER_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.CENTER_HEAD = node = CfgNode()
        # The finest feature of an FPN: CenterNet's output stride of 4.
        node.IN_FEATURE = "p2"
        # One class: the person setting of the MCN paper's Table 1.
        node.NUM_CLASSES = 1
        # CenterNet's width for ResNets; its DLA-34 has 256.
        node.CONV_DIM = 64
        # CenterNet has none between a branch's two convolutions; "BN" or "GN" help short schedules.
        node.NORM = ""
        # CornerNet's 0.7: corners may move as long as the box keeps this IoU.
        node.MIN_OVERLAP = 0.7
        # "centernet" belongs to all published weights; "exact" is the formula as derived.
        node.GAUSSIAN_RADIUS = "centernet"
        # 0 learns sizes, offsets and joints at the centre cell alone; 1 at the 3x3 cells around it,
        # which gives short schedules nine times the signal.
        node.ASSIGN_RADIUS = 0
        node.HEATMAP_WEIGHT = 1.0
        node.OFFSET_WEIGHT = 1.0
        # COCO's evaluation looks at no more than 100 objects an image.
        node.TOPK_TEST = 100
        # COCO's AP wants the low scores too; pictures are drawn with a higher threshold.
        node.SCORE_THRESH_TEST = 0.01
        # Peaks are unique per cell, so NMS is optional; 0 switches it off.
        node.NMS_THRESH_TEST = 0.0

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``."""
        node = cfg.MODEL.CENTER_HEAD
        return {
            "input_shape": feature_shape(
                input_shape, node.IN_FEATURE, "MODEL.CENTER_HEAD.IN_FEATURE"
            ),
            "in_feature": node.IN_FEATURE,
            "num_classes": node.NUM_CLASSES,
            "conv_dim": node.CONV_DIM,
            "norm": node.NORM,
            "min_overlap": node.MIN_OVERLAP,
            "radius_rule": node.GAUSSIAN_RADIUS,
            "assign_radius": node.ASSIGN_RADIUS,
            "heatmap_weight": node.HEATMAP_WEIGHT,
            "offset_weight": node.OFFSET_WEIGHT,
            "topk": node.TOPK_TEST,
            "score_threshold": node.SCORE_THRESH_TEST,
            "nms_threshold": node.NMS_THRESH_TEST,
        }

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> heatmap logits (N, num_classes, h, w), offset (N, 2, h, w), (x, y), stride units."""
        feature = features[self.in_feature]
        return {"heatmap": self.heatmap(feature), "offset": self.offset(feature)}

    def targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Targets:
        """Heatmap (N, num_classes, h, w), its valid cells, and offsets at assigned cells.

        ``valid`` is broadcastable to the heatmap: (N, 1, h, w), or (N, 1, 1, 1) without crowds.

        Invalid are the cells of crowds, but for the centres of labelled objects in them, and all
        cells of images without object labels.
        """
        objects = batch_objects(batched_inputs, images, self.stride)
        grid, num_images = grid_size(images, self.stride), len(batched_inputs)
        heatmap = draw_gaussians(
            objects.image_index * self.num_classes + objects.classes,
            cells_of(objects.center_xy, grid),
            object_radius(objects.wh, self.min_overlap, self.radius_rule),
            num_images * self.num_classes,
            grid,
        ).view(num_images, self.num_classes, *grid)
        crowd = batch_ignored_cells(batched_inputs, images, self.stride)
        valid = objects.labelled[:, None, None, None]
        if crowd.any():
            valid = (~crowd | (heatmap == 1)) & valid
        cells = batch_cells(batched_inputs, images, self.stride, self.assign_radius)
        offset = objects.center_xy[cells.object_index] - cells.xy
        return {"heatmap": heatmap, "valid": valid, "cells": cells, "offset": offset}

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_center_heatmap`` and ``loss_center_offset``."""
        heatmap = heatmap_focal_loss(predictions["heatmap"], targets["heatmap"], targets["valid"])
        offset = gathered_l1_loss(targets["cells"].gather(predictions["offset"]), targets["offset"])
        return {
            "loss_center_heatmap": heatmap * self.heatmap_weight,
            "loss_center_offset": offset * self.offset_weight,
        }

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Find the peaks of all images at once; no peak lies in the padding."""
        heatmap = predictions["heatmap"].float().sigmoid() * image_cells(images, self.stride)
        peaks = find_peaks(heatmap, self.topk, score_threshold=self.score_threshold)
        decoded.peaks = peaks
        decoded.center_xy = peaks.xy + gather_cells(predictions["offset"].float(), peaks.xy)
        decoded.objects["scores"] = peaks.scores
        decoded.objects["pred_classes"] = peaks.channels

    def postprocess(
        self,
        decoded: Decoded,
        index: int,
        image_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> dict[str, Any]:
        """-> ``{"instances": Instances}`` with every field that the heads put on the objects."""
        instances = Instances(image_size)
        keep = decoded.objects["scores"][index] > self.score_threshold
        fields = {name: value[index][keep] for name, value in decoded.objects.items()}
        if "pred_boxes" not in fields:
            # Detectron2's post-processing is built around boxes: the centre's own cell serves.
            center = decoded.center_xy[index][keep] * self.stride
            fields["pred_boxes"] = decode_boxes(center, torch.full_like(center, self.stride))
        fields["pred_boxes"] = Boxes(fields["pred_boxes"])
        for name, value in fields.items():
            instances.set(name, value)
        if self.nms_threshold > 0:
            kept = batched_nms(
                instances.pred_boxes.tensor,
                instances.scores,
                instances.pred_classes,
                self.nms_threshold,
            )
            instances = instances[kept]
        return {"instances": detector_postprocess(instances, *output_size)}

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average the heatmaps; offsets are taken from the unflipped image, as CenterNet does."""
        merged = average_flipped_logits(predictions["heatmap"], flipped["heatmap"])
        return {**predictions, "heatmap": merged}

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """``center`` (N, h, w): the strongest class's heatmap."""
        return {"center": targets["heatmap"].amax(1)}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """``center`` (N, h, w): the strongest class's score."""
        return {"center": predictions["heatmap"].float().sigmoid().amax(1)}
