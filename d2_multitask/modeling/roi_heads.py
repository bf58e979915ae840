"""Detectron2's proposal network and box, mask and keypoint heads, for labels that are partial.

What is added: an object without a mask or without joints teaches the other heads all the same;
boxes that lie on crowds are no background; in mixed precision boxes keep their coordinates;
losses of masks and joints are divided by the number of all processes' labels.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import (
    ROI_KEYPOINT_HEAD_REGISTRY,
    KRCNNConvDeconvUpsampleHead,
    StandardROIHeads,
    select_foreground_proposals,
)
from detectron2.modeling.roi_heads.keypoint_head import keypoint_rcnn_loss
from detectron2.modeling.roi_heads.roi_heads import select_proposals_with_visible_keypoints
from detectron2.structures import Boxes, ImageList, Instances, Keypoints
from torch import Tensor

from d2_multitask.heads.base import check_class_ids
from d2_multitask.losses import average_over_workers, worker_weight
from d2_multitask.modeling.instance_labels import ImageLabels, covered_share

# A box that lies on ignored pixels by more than this share of its area teaches nothing.
_MAX_IGNORED = 0.5


@PROPOSAL_GENERATOR_REGISTRY.register()
class MultitaskRPN(RPN):
    """Detectron2's region proposal network; anchors on ignored pixels are no background."""

    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[ImageLabels]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As in ``RPN``; labels (R,) of R anchors: 1 object, 0 background, -1 neither."""
        labels, boxes = super().label_and_sample_anchors(anchors, gt_instances)
        every = Boxes.cat(anchors).tensor
        for index, image in enumerate(gt_instances):
            if image.ignore_mask is not None:
                ignored = covered_share(every, image.ignore_mask) > _MAX_IGNORED
                labels[index] = labels[index].masked_fill(ignored & (labels[index] == 0), -1)
        return labels, boxes


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class MultitaskKeypointHead(KRCNNConvDeconvUpsampleHead):
    """Detectron2's keypoint head, whose loss wants (N, C, H, W) order; in float32."""

    def layers(self, x: Tensor) -> Tensor:
        """Pooled features (R, C, h, w) -> joint heatmaps (R, K, S, S), logits."""
        return super().layers(x).float().contiguous()

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """As in Detectron2's head, with the mean over all processes' visible joints."""
        if not self.training or self.loss_normalizer != "visible":
            return super().forward(x, instances)
        logits = self.layers(x)
        total = keypoint_rcnn_loss(logits, instances, normalizer=1)
        visible = logits.new_zeros(())
        for image in instances:
            boxes = image.proposal_boxes.tensor
            visible += image.gt_keypoints.to_heatmap(boxes, logits.shape[2])[1].sum()
        return {"loss_keypoint": total / average_over_workers(visible) * self.loss_weight}


@ROI_HEADS_REGISTRY.register()
class MultitaskROIHeads(StandardROIHeads):
    """Detectron2's standard heads; parameter names and shapes are the same.

    ``MODEL.MASK_ON`` and ``MODEL.KEYPOINT_ON`` choose them.
    """

    @configurable
    def __init__(self, *, keypoint_classes: list[int] | None = None, **kwargs: Any) -> None:
        """
        Args:
            keypoint_classes: the classes whose boxes get joints; empty = all.
            **kwargs: of ``StandardROIHeads``.
        """
        super().__init__(**kwargs)
        self.keypoint_classes = list(keypoint_classes or ())

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``.

        Raises:
            ValueError: a class with joints that there is not.
        """
        arguments = super().from_config(cfg, input_shape)
        classes, key = cfg.MODEL.MULTITASK_RCNN.KEYPOINT_CLASSES, "MULTITASK_RCNN.KEYPOINT_CLASSES"
        if cfg.MODEL.KEYPOINT_ON:
            check_class_ids(classes, cfg.MODEL.ROI_HEADS.NUM_CLASSES, f"MODEL.{key}")
        return {**arguments, "keypoint_classes": classes}

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[ImageLabels] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As in ``StandardROIHeads``."""
        return super().forward(images, self._poolable(features), proposals, targets)

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """As in ``StandardROIHeads``, without the joints' heatmaps in the results."""
        instances = super().forward_with_given_boxes(self._poolable(features), instances)
        for image in instances:
            if image.has("pred_keypoint_heatmaps"):
                image.remove("pred_keypoint_heatmaps")
        return instances

    def _poolable(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The features that are read, in float32 and (N, C, H, W) order.

        Detectron2's pooling rounds boxes to the features' type: with bfloat16, to the nearest of
        128 numbers between 128 and 256. And pooling would reorder the features once for each head.
        """
        return {name: features[name].float().contiguous() for name in self.in_features}

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[ImageLabels]
    ) -> list[Instances]:
        """As in ``StandardROIHeads``, without background on ignored pixels."""
        sampled = super().label_and_sample_proposals(proposals, targets)
        for index, (image, target) in enumerate(zip(sampled, targets, strict=True)):
            if target.ignore_mask is not None:
                share = covered_share(image.proposal_boxes.tensor, target.ignore_mask)
                background = image.gt_classes == self.num_classes
                sampled[index] = image[~(background & (share > _MAX_IGNORED))]
        return sampled

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        if self.training and self.mask_on:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
            instances = [_with_masks(image) for image in instances]
            losses = super()._forward_mask(features, instances)
            weight = worker_weight(instances[0].gt_classes.new_full((), sum(map(len, instances))))
            return {name: loss * weight for name, loss in losses.items()}
        return super()._forward_mask(features, instances)

    def _forward_keypoint(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        if not self.keypoint_on:
            return super()._forward_keypoint(features, instances)
        if self.training:
            return self._keypoint_losses(features, instances)
        if not self.keypoint_classes:
            return super()._forward_keypoint(features, instances)
        wanted = torch.tensor(self.keypoint_classes, device=instances[0].pred_classes.device)
        chosen = [torch.isin(image.pred_classes, wanted) for image in instances]
        some = [image[rows] for image, rows in zip(instances, chosen, strict=True)]
        some = super()._forward_keypoint(features, some)
        for image, rows, found in zip(instances, chosen, some, strict=True):
            shape = (len(image), self.keypoint_head.num_keypoints, 3)
            keypoints = found.pred_keypoints.new_zeros(shape)
            keypoints[rows] = found.pred_keypoints
            image.pred_keypoints = keypoints
        return instances

    def _keypoint_losses(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor]:
        instances, _ = select_foreground_proposals(instances, self.num_classes)
        num_keypoints = self.keypoint_head.num_keypoints
        instances = [_with_joints(image, num_keypoints) for image in instances]
        if any(map(len, instances)):  # Detectron2 logs a mean over the images with objects
            instances = select_proposals_with_visible_keypoints(instances)
        pooled = self.keypoint_pooler(
            [features[name] for name in self.keypoint_in_features],
            [image.proposal_boxes for image in instances],
        )
        return self.keypoint_head(pooled, instances)


def _with_masks(image: Instances) -> Instances:
    """The sampled boxes whose object has a mask; an empty mask is an unlabelled one."""
    return image[image.gt_masks.nonempty()] if image.has("gt_masks") else image[:0]


def _with_joints(image: Instances, num_keypoints: int) -> Instances:
    """The same boxes, with joints that nobody labelled if the image has none."""
    if image.has("gt_keypoints"):
        return image
    image = image[:]  # its fields are shared, its dict is not
    boxes = image.proposal_boxes.tensor
    image.gt_keypoints = Keypoints(boxes.new_zeros((len(image), num_keypoints, 3)))
    return image
