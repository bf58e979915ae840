"""The pose task: keypoints at object centres, refined by heatmaps (CenterNet, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.data.datasets import keypoint_flips
from d2_multitask.data.labels.instances import BoxLabel, KeypointLabel
from d2_multitask.heads.base import Decoded, Lesson, Predictions, Targets, check_class_ids
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.heads.center import ObjectGrid, ObjectHead, average_flipped_logits
from d2_multitask.losses import (
    confident_peaks,
    distilled_heatmap_loss,
    gathered_l1_loss,
    heatmap_focal_loss,
)
from d2_multitask.targets.decode import (
    find_keypoint_peaks,
    is_recorded,
    keypoint_hull,
    match_keypoints,
    sample_keypoint_scores,
    values_at,
    weigh_keypoints,
)
from d2_multitask.targets.encode import (
    BatchLabels,
    cells_in_boxes,
    cells_of,
    draw_heatmaps,
    grid_size,
    keypoints_known,
    object_radius,
    peak_index,
    peak_weight,
    to_device,
)

# MoveNet's threshold of keypoints that count in the score, as its file has it: 0.127 in float16.
LEAST_CONFIDENCE = 0.126953125
# A recorded graph weighs keypoints in windows of one size: that of images whose shorter side has so
# many cells, 1280 pixels at stride 4. In larger ones the windows end at a larger weight than 0.001.
RECORDED_SIDE = 320
# How keypoints are decoded; see the config key MODEL.POSE_HEAD.DECODE.
DECODE_RULES = ("best", "centernet", "movenet")


@dataclass
class KeypointMatching:
    """How regressed keypoints are moved to the peaks of the heatmaps.

    Attributes:
        rule: one of :data:`DECODE_RULES`.
        score_threshold: least score of a peak that may be matched.
        max_distance: how far a keypoint may move to its peak, in parts of the box's longer side.
        topk: peaks looked at, per keypoint and image.
    """

    rule: str = "best"
    score_threshold: float = 0.1
    max_distance: float = 0.3
    topk: int = 100

    def __post_init__(self) -> None:
        if self.rule not in DECODE_RULES:
            raise ValueError(
                f"MODEL.POSE_HEAD.DECODE: found {self.rule!r}, expected one of {DECODE_RULES}"
            )


@dataclass(frozen=True)
class PoseLossWeights:
    """Weights of the losses of keypoint offsets, heatmaps and sub-cell offsets."""

    offset: float = 1.0
    heatmap: float = 1.0
    heatmap_offset: float = 1.0


@TASK_HEAD_REGISTRY.register("pose")
class PoseHead(ObjectHead):
    """Offsets of keypoints from the centre, a heatmap per keypoint, the offset in its cell."""

    labels: ClassVar = (BoxLabel, KeypointLabel)
    requires: ClassVar[tuple[str, ...]] = ("center",)
    uses: ClassVar[tuple[str, ...]] = ("det",)
    teacher_keys: ClassVar = (
        "MODEL.POSE_HEAD.NUM_KEYPOINTS",
        "MODEL.POSE_HEAD.OFFSET_PER_KEYPOINT",
    )

    @configurable
    def __init__(
        self,
        grid: ObjectGrid,
        *,
        num_keypoints: int,
        conv_dim: int = 64,
        loss_weights: PoseLossWeights | None = None,
        offset_scale: float = 1.0,
        matching: KeypointMatching | None = None,
        keypoint_classes: Sequence[int] = (),
        flip_indices: Sequence[int] | None = None,
        offset_per_keypoint: bool = False,
        rescore_power: float = 0.0,
    ) -> None:
        """
        Args:
            grid: the feature map.
            num_keypoints: K.
            conv_dim: channels of each branch's 3x3 convolution.
            loss_weights: ``None`` = all 1.
            offset_scale: stride units per unit of the predicted keypoint offsets.
            matching: how keypoints are decoded; ``None`` = the defaults.
            keypoint_classes: the classes that have keypoints; empty = all.
            flip_indices: keypoint order after a horizontal flip, for the flip test.
            offset_per_keypoint: each keypoint has a sub-cell offset of its own, as in MoveNet.
            rescore_power: an object's score is multiplied by this power of the mean confidence of
                its keypoints, those below :data:`LEAST_CONFIDENCE` not counted; 0 = it is not.
        """
        super().__init__(grid, conv_dim)
        self.num_keypoints = num_keypoints
        self.loss_weights = loss_weights or PoseLossWeights()
        self.offset_scale = offset_scale
        self.matching = matching or KeypointMatching()
        self.keypoint_classes = list(keypoint_classes)
        self.flip_indices = flip_indices and list(flip_indices)
        if rescore_power < 0 or (rescore_power and self.matching.rule == "centernet"):
            raise ValueError(
                f"MODEL.POSE_HEAD.RESCORE_POWER_TEST: found {rescore_power}, expected 0 or more, "
                "and 0 with DECODE 'centernet', whose keypoints all have confidence 1"
            )
        self.rescore_power = rescore_power
        self.keypoint_offset = self.cell_branch(2 * num_keypoints)
        self.keypoint_heatmap = self.heatmap_branch(num_keypoints)
        self.num_offsets = num_keypoints if offset_per_keypoint else 1
        self.keypoint_heatmap_offset = self.cell_branch(2 * self.num_offsets)

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.POSE_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.POSE_HEAD = node = CfgNode()
        # COCO's keypoints; another dataset's number must be set here.
        node.NUM_KEYPOINTS = 17
        # Ids of the classes that have keypoints. Inside of others' boxes the heatmaps learn that
        # there are none, and their keypoints are zeros. [] = all classes.
        node.KEYPOINT_CLASSES = []
        node.CONV_DIM = 64
        # CenterNet's weights: all 1.
        node.OFFSET_WEIGHT = 1.0
        node.HEATMAP_WEIGHT = 1.0
        node.HEATMAP_OFFSET_WEIGHT = 1.0
        # Cells per unit of the keypoint offsets' last layer; see MODEL.DET_HEAD.WH_SCALE.
        node.OFFSET_SCALE = 1.0
        # CenterNet's rule of matching: peaks above 0.1, within 0.3 x the longer side of the box.
        node.PEAK_SCORE_THRESH_TEST = 0.1
        node.MAX_DISTANCE_TEST = 0.3
        node.TOPK_TEST = 100
        # "best": of the peaks that are allowed the best by score and distance, the heatmap's score
        # as the keypoint's confidence, exact flips. "centernet": as its code, for its weights: the
        # nearest peak or none, confidence 1, its flips. Both read them from the integer centre.
        # "movenet": of all cells in the box the one of the best score, weighted by its distance;
        # memory grows as TOPK_TEST of the centre head x keypoints x cells.
        node.DECODE = "best"
        # An object's score is multiplied by this power of the mean confidence of its keypoints: 1
        # in MoveNet, 0 = it stays the centre's.
        node.RESCORE_POWER_TEST = 0.0
        # Every keypoint has a sub-cell offset of its own, as in MoveNet.
        node.OFFSET_PER_KEYPOINT = False

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``.

        Raises:
            ValueError: a class with keypoints that does not exist.
        """
        node = cfg.MODEL.POSE_HEAD
        check_class_ids(
            node.KEYPOINT_CLASSES,
            cfg.MODEL.CENTER_HEAD.NUM_CLASSES,
            "MODEL.POSE_HEAD.KEYPOINT_CLASSES",
        )
        flip_test = cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FLIP
        return {
            "grid": ObjectGrid.from_config(cfg, input_shape),
            "num_keypoints": node.NUM_KEYPOINTS,
            "conv_dim": node.CONV_DIM,
            "loss_weights": PoseLossWeights(
                node.OFFSET_WEIGHT, node.HEATMAP_WEIGHT, node.HEATMAP_OFFSET_WEIGHT
            ),
            "offset_scale": node.OFFSET_SCALE,
            "matching": KeypointMatching(
                node.DECODE, node.PEAK_SCORE_THRESH_TEST, node.MAX_DISTANCE_TEST, node.TOPK_TEST
            ),
            "keypoint_classes": node.KEYPOINT_CLASSES,
            "flip_indices": flip_indices(cfg) if flip_test else None,
            "offset_per_keypoint": node.OFFSET_PER_KEYPOINT,
            "rescore_power": node.RESCORE_POWER_TEST,
        }

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> raw predictions on the (h, w) grid.

        ``keypoint_offset`` (N, 2K, h, w): keypoint minus the cell, (x, y) per keypoint, in
        ``offset_scale`` stride units. ``keypoint_heatmap`` (N, K, h, w): logits.
        ``keypoint_heatmap_offset`` (N, 2, h, w): keypoint minus its own cell, (x, y), stride units,
        shared by all keypoints; (N, 2K, h, w) with ``offset_per_keypoint``.
        """
        feature = features[self.grid.in_feature]
        return {
            "keypoint_offset": self.keypoint_offset(feature),
            "keypoint_heatmap": self.keypoint_heatmap(feature),
            "keypoint_heatmap_offset": self.keypoint_heatmap_offset(feature),
        }

    def targets(self, labels: BatchLabels) -> Targets:
        """Keypoint offsets (A, K, 2) with weights (A, K, 1), heatmaps, sub-cell offsets.

        No loss where a label is missing: keypoints of visibility 0, images without keypoint labels,
        and, on the heatmaps, crowds. On the heatmap of one keypoint also none inside the boxes of
        objects whose keypoint is not labelled, and none in an image whose dataset
        (``labelled_keypoints``, (K,) bool) does not label this keypoint, or of whose objects some
        label others but none this one.
        """
        heatmap_targets = self._heatmap_targets(labels)
        cells = labels.cells(self.stride, self.grid.assign_radius)
        keypoints = labels.keypoints(self.stride, self.num_keypoints)[cells.object_index]
        weight, confidence = (keypoints[..., 2:] > 0).float(), labels.keypoint_confidence()
        if confidence is not None:
            weight = weight * confidence[cells.object_index][..., None]
        return {
            "cells": cells,
            "index": cells.index,
            "keypoint_offset": keypoints[..., :2] - cells.xy[:, None],  # (A, K, 2)
            "keypoint_weight": weight,
            **heatmap_targets,
        }

    def _heatmap_targets(self, labels: BatchLabels) -> Targets:
        """Heatmaps (N, K, h, w), valid cells, and the J labelled keypoints' own cells."""
        every = torch.ones(self.num_keypoints, dtype=torch.bool)
        rows = [x.get("labelled_keypoints", every).cpu() for x in labels.batched_inputs]
        in_dataset = torch.stack(rows)  # (N, K)
        objects, grid_hw = labels.objects(self.stride), grid_size(labels.images, self.stride)
        keypoints = labels.keypoints(self.stride, self.num_keypoints)
        labelled = keypoints[..., 2] > 0  # (M, K)
        object_index, keypoint = labelled.nonzero(as_tuple=True)  # (J,)
        xy = keypoints[object_index, keypoint, :2]  # (J, 2)
        cell = cells_of(xy, grid_hw)
        image_index = objects.image_index[object_index]
        radius = object_radius(objects.wh, self.grid.min_overlap, self.grid.radius_rule)
        shape = (*in_dataset.shape, *grid_hw)
        places = image_index, keypoint, cell
        confidence = labels.keypoint_confidence()
        confidence = None if confidence is None else confidence[object_index, keypoint]
        heatmap = draw_heatmaps(*places, radius[object_index], shape, labels.device)
        missing = keypoints[..., 2] == 0  # below 0: known to be absent
        if self.keypoint_classes:
            missing &= self._have_keypoints(objects.classes)[:, None]
        in_box, of_keypoint = missing.nonzero(as_tuple=True)
        hidden = cells_in_boxes(
            objects.boxes[in_box],
            objects.image_index[in_box] * self.num_keypoints + of_keypoint,
            in_dataset.numel(),
            grid_hw,
            labels.device,
        ).view_as(heatmap)
        ignored = labels.ignored_cells(self.stride) | hidden
        known = to_device(in_dataset & keypoints_known(objects, labelled, missing), labels.device)
        return {
            "keypoint_heatmap": heatmap,
            "peaks": peak_index(*places, shape),
            "peak_weight": peak_weight(*places, shape, confidence),
            "confidence": None if confidence is None else confidence[:, None],  # (J, 1)
            "valid": (~ignored | (heatmap == 1)) & known[:, :, None, None],
            "keypoint_image": image_index,
            "keypoint_of": keypoint,
            "keypoint_cell": cell,
            "keypoint_heatmap_offset": xy - cell,
        }

    def _have_keypoints(self, classes: Tensor) -> Tensor:
        """Classes of any shape -> bool of that shape."""
        # Not `isin`, which ONNX does not have, nor a tensor of the ids, which a GPU would wait for.
        return torch.stack([classes == number for number in self.keypoint_classes]).any(0)

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_pose_offset``, ``loss_pose_heatmap`` and ``loss_pose_heatmap_offset``."""
        offset = predictions["keypoint_offset"][targets["index"]] * self.offset_scale
        offset = gathered_l1_loss(
            offset.view(-1, self.num_keypoints, 2),
            targets["keypoint_offset"],
            targets["keypoint_weight"],
        )
        heatmap = heatmap_focal_loss(
            predictions["keypoint_heatmap"],
            targets["keypoint_heatmap"],
            targets["valid"],
            peaks=targets["peaks"],
            peak_weight=targets["peak_weight"],
        )
        x, y = targets["keypoint_cell"].unbind(1)
        at_keypoints = predictions["keypoint_heatmap_offset"][targets["keypoint_image"], :, y, x]
        if self.num_offsets > 1:
            rows = torch.arange(len(x), device=x.device)
            at_keypoints = at_keypoints.unflatten(1, (-1, 2))[rows, targets["keypoint_of"]]
        heatmap_offset = gathered_l1_loss(
            at_keypoints, targets["keypoint_heatmap_offset"], targets["confidence"]
        )
        weights = self.loss_weights
        return {
            "loss_pose_offset": offset * weights.offset,
            "loss_pose_heatmap": heatmap * weights.heatmap,
            "loss_pose_heatmap_offset": heatmap_offset * weights.heatmap_offset,
        }

    def unlabelled(self, labels: BatchLabels) -> Tensor:
        """(N,) bool; see :meth:`TaskHead.unlabelled`."""
        return ~labels.objects(self.stride).keypoints_labelled

    def distill(self, predictions: Predictions, lesson: Lesson) -> Tensor:
        """See :meth:`TaskHead.distill`: keypoints at the teacher's objects, heatmaps, sub-cells."""
        taught, weights = lesson.predictions, self.loss_weights
        offset = gathered_l1_loss(
            predictions["keypoint_offset"] * self.offset_scale,
            taught["keypoint_offset"] * lesson.head.offset_scale,
            lesson.objects * lesson.where,
        )
        heatmap = distilled_heatmap_loss(
            predictions["keypoint_heatmap"], taught["keypoint_heatmap"], lesson.where
        )
        peaks = confident_peaks(taught["keypoint_heatmap"].float().sigmoid())
        if self.num_offsets == 1:
            peaks = peaks.amax(1, keepdim=True)
        else:
            peaks = peaks.repeat_interleave(2, 1)
        heatmap_offset = gathered_l1_loss(
            predictions["keypoint_heatmap_offset"],
            taught["keypoint_heatmap_offset"],
            peaks * lesson.where,
        )
        return (
            offset * weights.offset
            + heatmap * weights.heatmap
            + heatmap_offset * weights.heatmap_offset
        )

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add ``pred_keypoints`` (N, P, K, 3): x, y in pixels of the network input, confidence.

        The confidence is the heatmap's score where the keypoint ends up, or 1 as in CenterNet
        (``MODEL.POSE_HEAD.DECODE``). Objects of classes without keypoints get zeros. Without boxes
        from another head the keypoints' hull serves as ``pred_boxes``.
        """
        cell, as_centernet = decoded.peaks.xy, self.matching.rule == "centernet"  # (N, P, 2)
        offset = values_at(predictions["keypoint_offset"], cell) * self.offset_scale
        regressed = cell[:, :, None] + offset.unflatten(2, (self.num_keypoints, 2))
        boxes = decoded.objects.get("pred_boxes")
        boxes = keypoint_hull(regressed) if boxes is None else boxes / self.stride
        heatmap = predictions["keypoint_heatmap"].float().sigmoid()
        heatmap_offset = predictions["keypoint_heatmap_offset"]
        if self.matching.rule == "movenet":
            sizes = torch.as_tensor(images.image_sizes)  # (N, 2)
            sizes = sizes.to(heatmap.device, non_blocking=True)
            longest = RECORDED_SIDE
            if not is_recorded():
                longest = max(min(size) for size in images.image_sizes) / self.stride
            cell, scores = weigh_keypoints(
                heatmap, regressed, boxes, decoded.found, sizes.amin(1) / self.stride, longest
            )
            offset = self._offsets_at(heatmap_offset, cell.transpose(1, 2)).transpose(1, 2)
            keypoints = torch.where(scores[..., None] > 0, cell + offset, regressed)
        else:
            keypoints, _ = match_keypoints(
                regressed,
                *self._peaks(heatmap, heatmap_offset),
                boxes,
                score_threshold=self.matching.score_threshold,
                max_distance=self.matching.max_distance,
                nearest_first=as_centernet,
            )
            scores = sample_keypoint_scores(heatmap, keypoints)
        if as_centernet:
            scores = torch.ones_like(scores)
        if self.rescore_power:
            self._rescore(decoded, scores)
        answer = torch.cat([keypoints * self.stride, scores[..., None]], -1)
        if self.keypoint_classes:
            answer = answer * self._have_keypoints(decoded.objects["pred_classes"])[..., None, None]
        decoded.objects["pred_keypoints"] = answer
        if "pred_boxes" not in decoded.objects:
            decoded.objects["pred_boxes"] = keypoint_hull(keypoints) * self.stride

    def _rescore(self, decoded: Decoded, confidence: Tensor) -> None:
        """Multiply scores by a power of the mean confidence, (N, P, K), of the keypoints seen.

        An object none of whose keypoints is seen keeps a score: MoveNet's own would be 0.
        """
        seen = confidence > LEAST_CONFIDENCE
        mean = (confidence * seen).sum(-1) / seen.sum(-1).clamp(min=1)
        factor = mean.clamp(min=LEAST_CONFIDENCE) ** self.rescore_power
        if self.keypoint_classes:
            has_keypoints = self._have_keypoints(decoded.objects["pred_classes"])
            factor = torch.where(has_keypoints, factor, 1.0)
        decoded.objects["scores"] = decoded.objects["scores"] * factor

    def _peaks(self, heatmap: Tensor, heatmap_offset: Tensor) -> tuple[Tensor, Tensor]:
        """Sub-cell positions (N, K, Q, 2), stride units, and scores (N, K, Q) of heatmap peaks."""
        scores, cell = find_keypoint_peaks(
            heatmap, self.matching.topk, score_threshold=self.matching.score_threshold
        )
        return cell + self._offsets_at(heatmap_offset, cell), scores

    def _offsets_at(self, heatmap_offset: Tensor, cell: Tensor) -> Tensor:
        """Sub-cell offsets (N, K, Q, 2) at cells (N, K, Q, 2), each keypoint's own."""
        offset = values_at(heatmap_offset, cell.flatten(1, 2)).unflatten(1, cell.shape[1:3])
        if self.num_offsets == 1:
            return offset
        return offset.unflatten(3, (-1, 2)).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average offsets and heatmaps after swapping left and right keypoints."""
        order = self.flip_indices or list(range(self.num_keypoints))
        mirrored = flipped["keypoint_offset"].flip(-1).unflatten(1, (-1, 2))[:, order]
        # A flip maps x - cell to 1 - (x - cell): the cell's other edge becomes its origin.
        # CenterNet leaves the 1 out.
        edge = 0 if self.matching.rule == "centernet" else 1 / self.offset_scale
        mirrored = torch.stack([edge - mirrored[:, :, 0], mirrored[:, :, 1]], 2).flatten(1, 2)
        return {
            **predictions,
            "keypoint_offset": (predictions["keypoint_offset"] + mirrored) / 2,
            "keypoint_heatmap": average_flipped_logits(
                predictions["keypoint_heatmap"], flipped["keypoint_heatmap"][:, order]
            ),
        }

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """``joints`` (N, h, w): all keypoint heatmaps in one."""
        return {"joints": targets["keypoint_heatmap"].amax(1)}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """``joints`` (N, h, w): the strongest keypoint's score."""
        return {"joints": predictions["keypoint_heatmap"].float().sigmoid().amax(1)}


def flip_indices(cfg: CfgNode) -> list[int]:
    """Keypoint order after a horizontal flip, from the metadata of the first dataset of the config.

    Raises:
        ValueError: no dataset is named, or it has another number of keypoints than the network.
    """
    names = list(cfg.DATASETS.TEST) or list(cfg.DATASETS.TRAIN)
    if not names:
        raise ValueError(
            "TEST.AUG.FLIP: the flip test must know which keypoints swap sides; expected a dataset "
            "with keypoints in DATASETS.TEST or DATASETS.TRAIN, found none"
        )
    indices = keypoint_flips.flip_indices(names[:1])
    if len(indices) != cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS:
        raise ValueError(
            f"MODEL.POSE_HEAD.NUM_KEYPOINTS: found {cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS}, expected "
            f"{len(indices)}, the keypoints of dataset {names[0]!r}"
        )
    return indices
