"""Detectron2's proposal network and box, mask and keypoint heads, for labels that are partial.

What is added: an object without a mask or keypoints still teaches the other heads; boxes on ignored
regions (crowds) are ignored; in mixed precision boxes keep their coordinates; losses of masks and
keypoints are divided by the number of all processes' labels.

Letters: n objects, m sampled boxes, (H, W) network input. Boxes are xyxy, pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ROIAlign, ShapeSpec
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
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, Keypoints
from torch import Tensor

from d2_multitask.heads.base import check_class_ids
from d2_multitask.losses import average_over_workers, worker_weight

# Logit of the classes that an image's dataset does not label: e to its power is 0.
_NEVER = -1e4
# A box that lies on ignored pixels by more than this share of its area is ignored.
_MAX_IGNORED = 0.5


class ImageLabels(Instances):
    """The labelled objects of one image and where its unlabelled ones are.

    Attributes:
        ignore_mask: (H, W) bool, crowds and remains of objects, neither object nor background;
            ``None`` if there are none.
        labelled_classes: (C,) bool, those that the image's dataset labels; ``None`` = all.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        ignore_mask: Tensor | None = None,
        labelled_classes: Tensor | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(image_size, **fields)
        # With the underscore, ``Instances`` does not take them for fields of the objects.
        self._ignore_mask, self._labelled_classes = ignore_mask, labelled_classes

    @property
    def ignore_mask(self) -> Tensor | None:
        """See the class."""
        return self._ignore_mask

    @property
    def labelled_classes(self) -> Tensor | None:
        """See the class."""
        return self._labelled_classes

    @classmethod
    def of(cls, entry: dict[str, Any], device: torch.device) -> ImageLabels:
        """From one entry of ``batched_inputs``; without ``instances`` there are no objects.

        Args:
            entry: with ``image`` (3, H, W) and perhaps ``instances`` and ``ignore_mask``.
            device: where the labels go.
        """
        height, width = entry["image"].shape[-2:]
        if "instances" not in entry:
            boxes = Boxes(torch.zeros((0, 4), device=device))
            classes = torch.zeros(0, dtype=torch.long, device=device)
            return cls((height, width), gt_boxes=boxes, gt_classes=classes)
        fields = entry["instances"].to(device).get_fields()
        if isinstance(fields.get("gt_masks"), BitMasks):
            fields = {**fields, "gt_masks": SharedBitMasks(fields["gt_masks"].tensor)}
        more = {key: entry.get(key) for key in ("ignore_mask", "labelled_classes")}
        more = {key: value if value is None else value.to(device) for key, value in more.items()}
        return cls((height, width), **more, **fields)


class SharedBitMasks(BitMasks):
    """Bit masks of which any number of rows can be taken without copying a pixel.

    Detectron2 gives each of its (typically 512) sampled boxes a copy of its object's whole mask,
    most of which it drops again.
    """

    def __init__(self, tensor: Tensor, index: Tensor | None = None) -> None:
        """
        Args:
            tensor: (n, H, W) masks.
            index: (m,) int64, the mask of each row; ``None`` = each its own.
        """
        super().__init__(tensor)
        self.index = torch.arange(len(tensor), device=tensor.device) if index is None else index

    def to(self, *args: Any, **kwargs: Any) -> SharedBitMasks:
        """See ``torch.Tensor.to``; the index goes along."""
        tensor = self.tensor.to(*args, **kwargs)
        return SharedBitMasks(tensor, self.index.to(tensor.device))

    def __getitem__(self, item: int | slice | Tensor) -> SharedBitMasks:
        """Rows; an ``int`` gives one row."""
        if isinstance(item, int):
            item = slice(item, item + 1 or None)
        return SharedBitMasks(self.tensor, self.index[item])

    def __len__(self) -> int:
        return len(self.index)

    def nonempty(self) -> Tensor:
        """(m,) bool: which rows' masks have a pixel."""
        return self.tensor.flatten(1).any(1)[self.index]

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """As in ``BitMasks``.

        Args:
            boxes: (m, 4), one for each row.
            mask_size: side of the result.

        Returns:
            (m, mask_size, mask_size) bool.
        """
        rois = torch.cat([self.index[:, None].to(boxes), boxes], 1)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        return align(self.tensor[:, None].float(), rois)[:, 0] >= 0.5


def covered_share(boxes: Tensor, mask: Tensor) -> Tensor:
    """How much of each box lies on a mask.

    Args:
        boxes: (m, 4), of any position; corners are rounded to pixels.
        mask: (H, W) bool.

    Returns:
        (m,) float32 in [0, 1].
    """
    height, width = mask.shape
    # integral[y, x] = pixels of the mask above and left of (x, y)
    integral = torch.zeros((height + 1, width + 1), dtype=torch.int32, device=mask.device)
    integral[1:, 1:] = mask.cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32)
    x1, x2 = (boxes[:, i].round().long().clamp(0, width) for i in (0, 2))
    y1, y2 = (boxes[:, i].round().long().clamp(0, height) for i in (1, 3))
    on_mask = integral[y2, x2] - integral[y1, x2] - integral[y2, x1] + integral[y1, x1]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (on_mask / area.clamp(min=1)).float().clamp(0, 1)


@PROPOSAL_GENERATOR_REGISTRY.register()
class MultitaskRPN(RPN):
    """Detectron2's region proposal network; anchors on ignored pixels are not background."""

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
        """Pooled features (R, C, h, w) -> keypoint heatmaps (R, K, S, S), logits."""
        return super().layers(x).float().contiguous()

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """As in Detectron2's head, with the mean over all processes' visible keypoints."""
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
            keypoint_classes: the classes whose boxes get keypoints; empty = all.
            **kwargs: of ``StandardROIHeads``.
        """
        super().__init__(**kwargs)
        self.keypoint_classes = list(keypoint_classes or ())

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``.

        Raises:
            ValueError: a class with keypoints that does not exist.
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
        """As in ``StandardROIHeads``, without the keypoints' heatmaps in the results."""
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
                sampled[index] = image[_rows(~(background & (share > _MAX_IGNORED)))]
            if target.labelled_classes is not None:  # the last column is the background's
                unlabelled = F.pad(~target.labelled_classes, (0, 1))
                sampled[index].unlabelled_classes = unlabelled.expand(len(sampled[index]), -1)
        return sampled

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]) -> Any:
        """As in ``StandardROIHeads``, without the scores of classes that a dataset does not label.

        Their objects may be anywhere in its images: a box is background beside its classes alone.
        """
        if not self.training or not any(x.has("unlabelled_classes") for x in proposals):
            return super()._forward_box(features, proposals)
        none = proposals[0].gt_classes.new_zeros(self.num_classes + 1, dtype=torch.bool)
        rows = [
            x.unlabelled_classes if x.has("unlabelled_classes") else none.expand(len(x), -1)
            for x in proposals
        ]
        unlabelled = torch.cat(rows)

        def leave_out(_: Any, __: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return output[0].float().masked_fill(unlabelled, _NEVER), output[1]

        hook = self.box_predictor.register_forward_hook(leave_out)
        try:
            return super()._forward_box(features, proposals)
        finally:
            hook.remove()

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
        wanted = torch.tensor(self.keypoint_classes)
        wanted = wanted.to(instances[0].pred_classes.device, non_blocking=True)
        chosen = [_rows(torch.isin(image.pred_classes, wanted)) for image in instances]
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
        instances = [_with_keypoints(image, num_keypoints) for image in instances]
        if any(map(len, instances)):  # Detectron2 logs a mean over the images with objects
            instances = select_proposals_with_visible_keypoints(instances)
        pooled = self.keypoint_pooler(
            [features[name] for name in self.keypoint_in_features],
            [image.proposal_boxes for image in instances],
        )
        return self.keypoint_head(pooled, instances)


def _rows(mask: Tensor) -> Tensor:
    """Indices of a mask (n,): a GPU is asked once how many they are, not for each field."""
    return mask.nonzero()[:, 0]


def _with_masks(image: Instances) -> Instances:
    """The sampled boxes whose object has a mask; an empty mask means unlabelled."""
    return image[_rows(image.gt_masks.nonempty())] if image.has("gt_masks") else image[:0]


def _with_keypoints(image: Instances, num_keypoints: int) -> Instances:
    """The same boxes, with unlabelled keypoints if the image has none."""
    if image.has("gt_keypoints"):
        return image
    image = image[:]  # its fields are shared, its dict is not
    boxes = image.proposal_boxes.tensor
    image.gt_keypoints = Keypoints(boxes.new_zeros((len(image), num_keypoints, 3)))
    return image
