"""The centre head: where objects are. Box and pose heads read their answers at its peaks.

CenterNet ("Objects as Points", arXiv 1904.07850), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, batched_nms
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from d2_multitask.heads.base import (
    Branch,
    CellBranch,
    Decoded,
    Lesson,
    Predictions,
    Size,
    Targets,
    TaskHead,
    feature_shape,
)
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.losses import (
    confident_peaks,
    distilled_heatmap_loss,
    gathered_l1_loss,
    heatmap_focal_loss,
)
from d2_multitask.targets.decode import decode_boxes, find_peaks, values_at, window_maximum
from d2_multitask.targets.encode import (
    BatchLabels,
    cells_of,
    draw_heatmaps,
    grid_size,
    image_cells,
    object_radius,
    peak_index,
    peak_weight,
    to_device,
)

# Logit of 0.1, where a fresh heatmap starts: rare positives would otherwise be lost in the first
# steps. -2.19 in CenterNet's code.
HEATMAP_BIAS = float(torch.logit(torch.tensor(0.1)))


@dataclass(frozen=True)
class ObjectGrid:
    """The feature map that the heads of objects read, and which of its cells learn.

    Attributes:
        channels: of the feature map.
        stride: input pixels per cell.
        in_feature: name of the backbone output.
        norm: normalisation after the 3x3 convolution of every branch.
        min_overlap: see :func:`d2_multitask.targets.encode.gaussian_radius`.
        radius_rule: ``"centernet"`` or ``"exact"``.
        assign_radius: see :func:`d2_multitask.targets.encode.assign_cells`.
        separable: the 3x3 convolutions are depthwise ones and 1x1 ones; see :class:`Branch`.
    """

    channels: int
    stride: int = 4
    in_feature: str = "p2"
    norm: str = ""
    min_overlap: float = 0.7
    radius_rule: str = "centernet"
    assign_radius: int = 0
    separable: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> ObjectGrid:
        """What ``MODEL.CENTER_HEAD`` says, for all heads of objects."""
        node = cfg.MODEL.CENTER_HEAD
        shape = feature_shape(input_shape, node.IN_FEATURE, "MODEL.CENTER_HEAD.IN_FEATURE")
        return cls(
            channels=shape.channels,
            stride=shape.stride,
            in_feature=node.IN_FEATURE,
            norm=node.NORM,
            min_overlap=node.MIN_OVERLAP,
            radius_rule=node.GAUSSIAN_RADIUS,
            assign_radius=node.ASSIGN_RADIUS,
            separable=node.SEPARABLE,
        )


class ObjectHead(TaskHead):
    """Base of the heads of objects: they read one feature map."""

    def __init__(self, grid: ObjectGrid, conv_dim: int) -> None:
        super().__init__()
        self.grid, self.stride, self.conv_dim = grid, grid.stride, conv_dim

    def unlabelled(self, labels: BatchLabels) -> Tensor:
        """(N,) bool; see :meth:`TaskHead.unlabelled`."""
        return ~labels.objects(self.stride).labelled

    def heatmap_branch(self, channels: int) -> Branch:
        """A branch for logits of ``channels`` heatmaps."""
        grid = self.grid
        return Branch(
            grid.channels,
            self.conv_dim,
            channels,
            norm=grid.norm,
            bias=HEATMAP_BIAS,
            weight_std=None,
            separable=grid.separable,
        )

    def cell_branch(self, channels: int, bias: float = 0.0) -> CellBranch:
        """A branch for ``channels`` numbers that are read at cells only."""
        grid = self.grid
        return CellBranch(
            grid.channels,
            self.conv_dim,
            channels,
            norm=grid.norm,
            bias=bias,
            separable=grid.separable,
        )


def average_flipped_logits(logits: Tensor, flipped: Tensor) -> Tensor:
    """Mean of two heatmaps in probability, as logits; ``flipped`` is flipped back first."""
    mean = (logits.float().sigmoid() + flipped.float().flip(-1).sigmoid()) / 2
    return torch.logit(mean, eps=1e-6)


@TASK_HEAD_REGISTRY.register("center")
class CenterHead(ObjectHead):
    """Class heatmap of object centres, and the centre's offset inside its cell."""

    teacher_keys: ClassVar = ("MODEL.CENTER_HEAD.NUM_CLASSES",)

    @configurable
    def __init__(
        self,
        grid: ObjectGrid,
        *,
        num_classes: int,
        conv_dim: int = 64,
        heatmap_weight: float = 1.0,
        offset_weight: float = 1.0,
        topk: int = 100,
        score_threshold: float = 0.0,
        nms_threshold: float = 0.0,
        peak_window: int = 3,
    ) -> None:
        """
        Args:
            grid: the feature map.
            num_classes: object classes.
            conv_dim: channels of each branch's 3x3 convolution.
            heatmap_weight: weight of the focal loss.
            offset_weight: weight of the offset's L1 loss.
            topk: most objects per image.
            score_threshold: objects below it are left out.
            nms_threshold: IoU above which the weaker of two boxes of a class goes; 0 = no NMS.
            peak_window: side of the window, in cells, of which a peak is the maximum.

        Raises:
            ValueError: ``topk``, ``nms_threshold``, ``peak_window`` or the grid's ``assign_radius``
                is out of range.
        """
        super().__init__(grid, conv_dim)
        self.num_classes = num_classes
        self.heatmap_weight, self.offset_weight = heatmap_weight, offset_weight
        self.topk, self.score_threshold, self.nms_threshold = topk, score_threshold, nms_threshold
        self.peak_window = peak_window
        self._check_numbers()
        self.heatmap = self.heatmap_branch(num_classes)
        self.offset = self.cell_branch(2)

    def _check_numbers(self) -> None:
        radius, window, nms = self.grid.assign_radius, self.peak_window, self.nms_threshold
        for key, found, fits, expected in (
            ("ASSIGN_RADIUS", radius, radius >= 0, "0 or more"),
            ("TOPK_TEST", self.topk, self.topk >= 1, "1 or more"),
            ("NMS_THRESH_TEST", nms, 0 <= nms <= 1, "0 (no NMS) to 1"),
            ("PEAK_WINDOW_TEST", window, window >= 1 and window % 2 == 1, "an odd number"),
        ):
            if not fits:
                raise ValueError(f"MODEL.CENTER_HEAD.{key}: found {found}, expected {expected}")

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
        # True: MoveNet's branches, for all heads of objects.
        node.SEPARABLE = False
        # CornerNet's 0.7: corners may move as long as the box keeps this IoU.
        node.MIN_OVERLAP = 0.7
        # "centernet" belongs to all published weights; "exact" is the formula as derived.
        node.GAUSSIAN_RADIUS = "centernet"
        # 0 learns sizes, offsets and keypoints at the centre cell alone; 1 at the 3x3 cells around
        # it, which gives short schedules nine times the signal.
        node.ASSIGN_RADIUS = 0
        node.HEATMAP_WEIGHT = 1.0
        node.OFFSET_WEIGHT = 1.0
        # COCO's evaluation looks at no more than 100 objects per image.
        node.TOPK_TEST = 100
        # COCO's AP wants the low scores too; pictures are drawn with a higher threshold.
        node.SCORE_THRESH_TEST = 0.01
        # Peaks are unique per cell, so NMS is optional; 0 switches it off.
        node.NMS_THRESH_TEST = 0.0
        # An object is the maximum of a window of so many cells a side; 5 in MoveNet.
        node.PEAK_WINDOW_TEST = 3

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``."""
        node = cfg.MODEL.CENTER_HEAD
        return {
            "grid": ObjectGrid.from_config(cfg, input_shape),
            "num_classes": node.NUM_CLASSES,
            "conv_dim": node.CONV_DIM,
            "heatmap_weight": node.HEATMAP_WEIGHT,
            "offset_weight": node.OFFSET_WEIGHT,
            "topk": node.TOPK_TEST,
            "score_threshold": node.SCORE_THRESH_TEST,
            "nms_threshold": node.NMS_THRESH_TEST,
            "peak_window": node.PEAK_WINDOW_TEST,
        }

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> heatmap logits (N, num_classes, h, w), offset (N, 2, h, w), (x, y), stride units."""
        feature = features[self.grid.in_feature]
        return {"heatmap": self.heatmap(feature), "offset": self.offset(feature)}

    def targets(self, labels: BatchLabels) -> Targets:
        """Heatmap (N, num_classes, h, w), its peaks and valid cells, offsets at assigned cells.

        ``valid`` is broadcastable to the heatmap: (N, C, h, w), where C is 1 if all classes are
        labelled and h and w are 1 without crowds. Invalid are the cells of crowds, but for the
        centres of labelled objects in them, all cells of images without object labels, and those
        of the classes that the image's dataset does not label (``labelled_classes``).
        """
        objects = labels.objects(self.stride)
        grid_hw = grid_size(labels.images, self.stride)
        shape = (len(objects.labelled), self.num_classes, *grid_hw)
        places = objects.image_index, objects.classes, cells_of(objects.center_xy, grid_hw)
        radius = object_radius(objects.wh, self.grid.min_overlap, self.grid.radius_rule)
        heatmap = draw_heatmaps(*places, radius, shape, labels.device)
        labelled = objects.labelled[:, None] & labels.flags("labelled_classes")
        valid = to_device(labelled, labels.device)[:, :, None, None]
        if labels.has_ignored:
            valid = (~labels.ignored_cells(self.stride) | (heatmap == 1)) & valid
        cells = labels.cells(self.stride, self.grid.assign_radius)
        offset = objects.center_xy[cells.object_index] - cells.xy
        return {
            "heatmap": heatmap,
            "peaks": peak_index(*places, shape),
            "peak_weight": peak_weight(*places, shape, objects.confidence),
            "valid": valid,
            "cells": cells,
            "index": cells.index,
            "offset": offset,
        }

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_center_heatmap`` and ``loss_center_offset``."""
        predicted = predictions["offset"][targets["index"]]
        heatmap = heatmap_focal_loss(
            predictions["heatmap"],
            targets["heatmap"],
            targets["valid"],
            peaks=targets["peaks"],
            peak_weight=targets["peak_weight"],
        )
        offset = gathered_l1_loss(predicted, targets["offset"], targets["cells"].weight)
        return {
            "loss_center_heatmap": heatmap * self.heatmap_weight,
            "loss_center_offset": offset * self.offset_weight,
        }

    def object_scores(self, predictions: Predictions) -> Tensor:
        """(N, 1, h, w): confident peaks' scores at the peaks and ``ASSIGN_RADIUS`` around them."""
        scores = predictions["heatmap"].float().sigmoid().amax(1, keepdim=True)
        return window_maximum(confident_peaks(scores), 2 * self.grid.assign_radius + 1)

    def distill(self, predictions: Predictions, lesson: Lesson) -> Tensor:
        """See :meth:`TaskHead.distill`: heatmaps, and offsets at the teacher's objects."""
        taught = lesson.predictions
        heatmap = distilled_heatmap_loss(predictions["heatmap"], taught["heatmap"], lesson.where)
        at_objects = lesson.objects * lesson.where
        offset = gathered_l1_loss(predictions["offset"], taught["offset"], at_objects)
        return heatmap * self.heatmap_weight + offset * self.offset_weight

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Find the peaks of all images at once; no peak lies in the padding."""
        heatmap = predictions["heatmap"].float().sigmoid() * image_cells(images, self.stride)
        peaks = find_peaks(heatmap, self.topk, self.peak_window, self.score_threshold)
        decoded.peaks, decoded.found = peaks, peaks.scores > self.score_threshold
        decoded.center_xy = peaks.xy + values_at(predictions["offset"], peaks.xy)
        decoded.objects["scores"] = peaks.scores
        decoded.objects["pred_classes"] = peaks.channels

    def postprocess(
        self, decoded: Decoded, index: int, image_size: Size, output_size: Size
    ) -> dict[str, Any]:
        """-> ``{"instances": Instances}`` with every field that the heads put on the objects."""
        # Rows, because for each field that a mask chooses from, a GPU is asked how many they are.
        keep = (decoded.objects["scores"][index] > self.score_threshold).nonzero()[:, 0]
        objects = self.with_boxes(decoded)
        fields = {name: value[index][keep] for name, value in objects.items()}
        fields["pred_boxes"] = Boxes(fields["pred_boxes"])
        instances = Instances(image_size, **fields)
        if self.nms_threshold > 0:
            kept = batched_nms(
                instances.pred_boxes.tensor,
                instances.scores,
                instances.pred_classes,
                self.nms_threshold,
            )
            instances = instances[kept]
        return {"instances": detector_postprocess(instances, *output_size)}

    def with_boxes(self, decoded: Decoded) -> dict[str, Tensor]:
        """The objects' fields; without a head that adds boxes, they are the centres' cells."""
        if "pred_boxes" in decoded.objects:
            return decoded.objects
        center = decoded.center_xy * self.stride
        boxes = decode_boxes(center, torch.full_like(center, self.stride))
        return {**decoded.objects, "pred_boxes": boxes}

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
