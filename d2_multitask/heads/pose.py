"""The pose task: joints at object centres, refined by joint heatmaps (CenterNet, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.data.labels import joint_flips
from d2_multitask.heads.base import (
    Branch,
    Decoded,
    Predictions,
    Targets,
    TaskHead,
    batch_cells,
    batch_ignored_cells,
    batch_instances,
    batch_objects,
    check_class_ids,
    feature_shape,
    grid_size,
)
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.heads.center import average_flipped_logits, heatmap_bias
from d2_multitask.losses import gathered_l1_loss, heatmap_focal_loss
from d2_multitask.targets.centers import (
    BatchObjects,
    add_keypoints,
    cells_of,
)
from d2_multitask.targets.decode import (
    find_joint_peaks,
    gather_cells,
    joint_hull,
    match_joints,
    sample_joint_scores,
)
from d2_multitask.targets.dense import cells_in_boxes
from d2_multitask.targets.gaussian import draw_gaussians, object_radius

# How joints are decoded; see the config key MODEL.POSE_HEAD.DECODE.
DECODE_RULES = ("best", "centernet")


@TASK_HEAD_REGISTRY.register("pose")
class PoseHead(TaskHead):
    """Joint offsets from the centre, a heatmap per joint, the joint's offset in its cell."""

    requires: ClassVar[tuple[str, ...]] = ("center",)
    uses: ClassVar[tuple[str, ...]] = ("det",)
    read_at_cells: ClassVar[tuple[str, ...]] = ("keypoint_offset", "keypoint_heatmap_offset")

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        in_feature: str,
        num_keypoints: int,
        conv_dim: int,
        norm: str,
        gaussian: tuple[float, str],
        assign_radius: int,
        loss_weights: tuple[float, float, float],
        offset_scale: float = 1.0,
        peak_score_threshold: float,
        max_distance: float,
        topk: int,
        keypoint_classes: Sequence[int] = (),
        flip_indices: list[int] | None = None,
        decode: str = "best",
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature map.
            in_feature: name of the backbone output to read.
            num_keypoints: K.
            conv_dim: channels of each branch's 3x3 convolution.
            norm: normalisation after it.
            gaussian: minimal overlap and radius rule of the joints' Gaussians.
            assign_radius: see :func:`d2_multitask.targets.centers.assign_cells`.
            loss_weights: of joint offsets, joint heatmaps, sub-cell offsets.
            offset_scale: the last layer's output times this is a joint offset in stride units.
            peak_score_threshold: least score of a joint peak that may be matched.
            max_distance: how far a joint may move to its peak, in parts of the box's longer side.
            topk: joint peaks looked at, per joint and image.
            keypoint_classes: the classes that have joints; empty = all.
            flip_indices: joint order after a horizontal flip, for the flip test.
            decode: one of :data:`DECODE_RULES`.

        Raises:
            ValueError: unknown ``decode``.
        """
        super().__init__()
        if decode not in DECODE_RULES:
            raise ValueError(
                f"MODEL.POSE_HEAD.DECODE: found {decode!r}, expected one of {DECODE_RULES}"
            )
        self.as_centernet = decode == "centernet"
        self.in_feature, self.stride, self.num_keypoints = (
            in_feature,
            input_shape.stride,
            num_keypoints,
        )
        self.min_overlap, self.radius_rule = gaussian
        self.assign_radius = assign_radius
        self.offset_weight, self.heatmap_weight, self.heatmap_offset_weight = loss_weights
        self.offset_scale = offset_scale
        self.peak_score_threshold, self.max_distance, self.topk = (
            peak_score_threshold,
            max_distance,
            topk,
        )
        self.keypoint_classes = list(keypoint_classes)
        self.flip_indices = flip_indices
        channels = input_shape.channels
        self.keypoint_offset = Branch(channels, conv_dim, 2 * num_keypoints, norm=norm)
        self.keypoint_heatmap = Branch(
            channels, conv_dim, num_keypoints, norm=norm, bias=heatmap_bias(), weight_std=None
        )
        self.keypoint_heatmap_offset = Branch(channels, conv_dim, 2, norm=norm)

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.POSE_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.POSE_HEAD = node = CfgNode()
        # COCO's joints; another data set's number must be set here.
        node.NUM_KEYPOINTS = 17
        # Ids of the classes that have joints. Inside of others' boxes joint heatmaps learn that
        # there are none, and their joints are zeros. [] = all classes.
        node.KEYPOINT_CLASSES = []
        node.CONV_DIM = 64
        # CenterNet's weights: all 1.
        node.OFFSET_WEIGHT = 1.0
        node.HEATMAP_WEIGHT = 1.0
        node.HEATMAP_OFFSET_WEIGHT = 1.0
        # Cells per unit of the joint offsets' last layer; see MODEL.DET_HEAD.WH_SCALE.
        node.OFFSET_SCALE = 1.0
        # CenterNet's rule of matching: peaks above 0.1, within 0.3 x the longer side of the box.
        node.PEAK_SCORE_THRESH_TEST = 0.1
        node.MAX_DISTANCE_TEST = 0.3
        node.TOPK_TEST = 100
        # "best": the nearest of the peaks that are allowed, the joint heatmap's score as the
        # joint's confidence, exact flips. "centernet": as its code, for its weights: the nearest
        # peak or none, confidence 1, its flips. Both read joints from the integer centre.
        node.DECODE = "best"

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``.

        Raises:
            ValueError: a class with joints that there is not.
        """
        node, center = cfg.MODEL.POSE_HEAD, cfg.MODEL.CENTER_HEAD
        check_class_ids(
            node.KEYPOINT_CLASSES, center.NUM_CLASSES, "MODEL.POSE_HEAD.KEYPOINT_CLASSES"
        )
        flip_test = cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FLIP
        return {
            "input_shape": feature_shape(
                input_shape, center.IN_FEATURE, "MODEL.CENTER_HEAD.IN_FEATURE"
            ),
            "in_feature": center.IN_FEATURE,
            "norm": center.NORM,
            "gaussian": (center.MIN_OVERLAP, center.GAUSSIAN_RADIUS),
            "assign_radius": center.ASSIGN_RADIUS,
            "num_keypoints": node.NUM_KEYPOINTS,
            "conv_dim": node.CONV_DIM,
            "loss_weights": (
                node.OFFSET_WEIGHT,
                node.HEATMAP_WEIGHT,
                node.HEATMAP_OFFSET_WEIGHT,
            ),
            "offset_scale": node.OFFSET_SCALE,
            "peak_score_threshold": node.PEAK_SCORE_THRESH_TEST,
            "max_distance": node.MAX_DISTANCE_TEST,
            "topk": node.TOPK_TEST,
            "keypoint_classes": node.KEYPOINT_CLASSES,
            "flip_indices": flip_indices(cfg) if flip_test else None,
            "decode": node.DECODE,
        }

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> raw predictions on the (h, w) grid.

        ``keypoint_offset`` (N, 2K, h, w): joint minus the cell, (x, y) per joint, stride units.
        ``keypoint_heatmap`` (N, K, h, w): logits. ``keypoint_heatmap_offset`` (N, 2, h, w): joint
        minus its own cell, (x, y), stride units, shared by all joints.
        """
        feature = features[self.in_feature]
        return {
            "keypoint_offset": self.keypoint_offset(feature) * self.offset_scale,
            "keypoint_heatmap": self.keypoint_heatmap(feature),
            "keypoint_heatmap_offset": self.keypoint_heatmap_offset(feature),
        }

    def targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Targets:
        """Joint offsets (A, K, 2) with their weights (A, K, 1), joint heatmaps, sub-cell offsets.

        No loss where a label is missing: joints of visibility 0, images without joint labels, and,
        on the joint heatmaps, crowds. On the heatmap of one joint also none inside the boxes of
        objects whose joint is not labelled, and none in an image whose data set
        (``labelled_joints``, (K,) bool) does not label this joint, or of whose objects some label
        others but none this one.
        """
        objects = add_keypoints(
            batch_objects(batched_inputs, images, self.stride),
            batch_instances(batched_inputs),
            self.stride,
            self.num_keypoints,
        )
        grid = grid_size(images, self.stride)
        cells = batch_cells(batched_inputs, images, self.stride, self.assign_radius)
        keypoints = objects.keypoints[cells.object_index]  # (A, K, 3)
        crowd = batch_ignored_cells(batched_inputs, images, self.stride)
        return {
            "cells": cells,
            "keypoint_offset": keypoints[..., :2] - cells.xy[:, None],
            "keypoint_weight": (keypoints[..., 2:] > 0).float(),
            **self._heatmap_targets(
                objects, crowd, _labelled_joints(batched_inputs, self.num_keypoints, crowd), grid
            ),
        }

    def _heatmap_targets(
        self, objects: BatchObjects, crowd: Tensor, in_set: Tensor, grid: tuple[int, int]
    ) -> Targets:
        """Joint heatmaps (N, K, h, w), valid cells, and the J labelled joints' own cells.

        ``in_set`` (N, K): the joints that the image's data set labels.
        """
        num_images = len(in_set)
        labelled = objects.keypoints[..., 2] > 0  # (M, K)
        object_index, joint = labelled.nonzero(as_tuple=True)  # (J,)
        joint_xy = objects.keypoints[object_index, joint, :2]  # (J, 2)
        joint_cell = cells_of(joint_xy, grid)
        radius = object_radius(objects.wh, self.min_overlap, self.radius_rule)
        image_index = objects.image_index[object_index]
        heatmap = draw_gaussians(
            image_index * self.num_keypoints + joint,
            joint_cell,
            radius[object_index],
            num_images * self.num_keypoints,
            grid,
        ).view(num_images, self.num_keypoints, *grid)
        unknown = objects.keypoints[..., 2] == 0
        missing = unknown & self._have_joints(objects.classes)[:, None]  # (M, K)
        in_box, of_joint = missing.nonzero(as_tuple=True)
        channel = objects.image_index[in_box] * self.num_keypoints + of_joint
        # Per image and joint: how many objects label it, and how many only other joints.
        only_others = missing & labelled.any(1, keepdim=True)
        num_labelled, num_only_others = (
            torch.zeros_like(in_set, dtype=torch.long).index_add_(0, objects.image_index, x.long())
            for x in (labelled, only_others)
        )
        known = in_set & ((num_labelled > 0) | (num_only_others == 0))
        known &= objects.keypoints_labelled[:, None]
        ignored = crowd | cells_in_boxes(
            objects.boxes[in_box], channel, in_set.numel(), grid
        ).view_as(heatmap)
        valid = (~ignored | (heatmap == 1)) & known[:, :, None, None]
        return {
            "keypoint_heatmap": heatmap,
            "valid": valid,
            "joint_image": image_index,
            "joint_cell": joint_cell,
            "keypoint_heatmap_offset": joint_xy - joint_cell,
        }

    def _have_joints(self, classes: Tensor) -> Tensor:
        """Classes of any shape -> bool of that shape."""
        if not self.keypoint_classes:
            return torch.ones_like(classes, dtype=torch.bool)
        return torch.isin(classes, classes.new_tensor(self.keypoint_classes))

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_pose_offset``, ``loss_pose_heatmap`` and ``loss_pose_heatmap_offset``."""
        offset = targets["cells"].gather(predictions["keypoint_offset"])
        offset = gathered_l1_loss(
            offset.view(-1, self.num_keypoints, 2),
            targets["keypoint_offset"],
            targets["keypoint_weight"],
        )
        heatmap = heatmap_focal_loss(
            predictions["keypoint_heatmap"], targets["keypoint_heatmap"], targets["valid"]
        )
        cell = targets["joint_cell"]
        at_joints = predictions["keypoint_heatmap_offset"][
            targets["joint_image"], :, cell[:, 1], cell[:, 0]
        ]
        heatmap_offset = gathered_l1_loss(at_joints, targets["keypoint_heatmap_offset"])
        return {
            "loss_pose_offset": offset * self.offset_weight,
            "loss_pose_heatmap": heatmap * self.heatmap_weight,
            "loss_pose_heatmap_offset": heatmap_offset * self.heatmap_offset_weight,
        }

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add ``pred_keypoints`` (N, P, K, 3): x, y in pixels of the network input, confidence.

        The confidence is the joint heatmap's score where the joint ends up, or 1 as in CenterNet
        (``MODEL.POSE_HEAD.DECODE``). Objects of classes without joints get zeros. Without boxes
        from another head the joints' hull serves as ``pred_boxes``.
        """
        cell = decoded.peaks.xy  # (N, P, 2)
        offset = gather_cells(predictions["keypoint_offset"].float(), cell)
        regressed = cell[:, :, None] + offset.unflatten(2, (self.num_keypoints, 2))
        boxes = decoded.objects.get("pred_boxes")
        boxes = joint_hull(regressed) if boxes is None else boxes / self.stride
        heatmap = predictions["keypoint_heatmap"].float().sigmoid()
        joints, _ = match_joints(
            regressed,
            *self._joint_peaks(heatmap, predictions["keypoint_heatmap_offset"].float()),
            boxes,
            score_threshold=self.peak_score_threshold,
            max_distance=self.max_distance,
            nearest_first=self.as_centernet,
        )
        scores = sample_joint_scores(heatmap, joints)
        if self.as_centernet:
            scores = torch.ones_like(scores)
        keypoints = torch.cat([joints * self.stride, scores[..., None]], -1)
        if self.keypoint_classes:
            have_joints = self._have_joints(decoded.objects["pred_classes"])
            keypoints = keypoints * have_joints[..., None, None]
        decoded.objects["pred_keypoints"] = keypoints
        if "pred_boxes" not in decoded.objects:
            decoded.objects["pred_boxes"] = joint_hull(joints) * self.stride

    def _joint_peaks(self, heatmap: Tensor, heatmap_offset: Tensor) -> tuple[Tensor, Tensor]:
        """Sub-cell positions (N, K, Q, 2), stride units, and scores (N, K, Q) of joint peaks."""
        scores, cell = find_joint_peaks(
            heatmap, self.topk, score_threshold=self.peak_score_threshold
        )
        offset = gather_cells(heatmap_offset, cell.flatten(1, 2)).view(*cell.shape)
        return cell + offset, scores

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average offsets and heatmaps after swapping left and right joints."""
        order = self.flip_indices or list(range(self.num_keypoints))
        mirrored = flipped["keypoint_offset"].flip(-1).unflatten(1, (-1, 2))[:, order]
        # A flip maps x - cell to 1 - (x - cell): the cell's other edge becomes its origin.
        # CenterNet leaves the 1 out.
        edge = 0 if self.as_centernet else 1
        mirrored = torch.stack([edge - mirrored[:, :, 0], mirrored[:, :, 1]], 2).flatten(1, 2)
        return {
            **predictions,
            "keypoint_offset": (predictions["keypoint_offset"] + mirrored) / 2,
            "keypoint_heatmap": average_flipped_logits(
                predictions["keypoint_heatmap"], flipped["keypoint_heatmap"][:, order]
            ),
        }

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """``joints`` (N, h, w): all joint heatmaps in one."""
        return {"joints": targets["keypoint_heatmap"].amax(1)}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """``joints`` (N, h, w): the strongest joint's score."""
        return {"joints": predictions["keypoint_heatmap"].float().sigmoid().amax(1)}


def _labelled_joints(
    batched_inputs: list[dict[str, Any]], num_keypoints: int, like: Tensor
) -> Tensor:
    """(N, K) bool, on the device of ``like``: the joints that each image's data set labels."""
    rows = [x.get("labelled_joints") for x in batched_inputs]
    every = torch.ones(num_keypoints, dtype=torch.bool, device=like.device)
    return torch.stack([every if row is None else row.to(like.device) for row in rows])


def flip_indices(cfg: CfgNode) -> list[int]:
    """Joint order after a horizontal flip, from the metadata of the first data set of the config.

    Raises:
        ValueError: no data set is named, or it has another number of joints than the network.
    """
    names = list(cfg.DATASETS.TEST) or list(cfg.DATASETS.TRAIN)
    if not names:
        raise ValueError(
            "TEST.AUG.FLIP: the flip test must know which joints swap sides; expected a data set "
            "with joints in DATASETS.TEST or DATASETS.TRAIN, found none"
        )
    indices = joint_flips.flip_indices(names[:1])
    if len(indices) != cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS:
        raise ValueError(
            f"MODEL.POSE_HEAD.NUM_KEYPOINTS: found {cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS}, expected "
            f"{len(indices)}, the joints of data set {names[0]!r}"
        )
    return indices
