"""A second look at found boxes: sides that fit better, and scores that know how well they fit.

A box is predicted at one cell, the object's centre, which sees its sides from afar. Here features
are read at a grid of points over each found box, as by the second stage of a detector (Fast R-CNN,
arXiv 1504.08083; CenterNet2, arXiv 2103.07461); from them come new sides and the IoU that the box
then has (IoU-Net, arXiv 1807.11590). Only found boxes cost time.

Letters: N images, P boxes per image, T most objects of an image, C channels, (h, w) grid size.
Boxes are xyxy in stride units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from d2_multitask.heads.base import Decoded, Targets
from d2_multitask.heads.center import HEATMAP_BIAS
from d2_multitask.losses import average_over_workers, giou_of_pairs
from d2_multitask.targets.encode import BatchLabels

# Points a side; they reach beyond the box, because a side is seen from both of its sides.
_POINTS = 7
_REACH = 1.25
_HIDDEN = 128
# A side moves by this part of the box's width or height per unit of the prediction.
_STEP = 0.25
# Training: the best so many found boxes of an image; those with a larger IoU are an object's.
_NUM_FOUND = 32
_LEAST_IOU = 0.5
# Training also has each labelled box with its sides moved by up to this part of its size: a fresh
# network finds none.
_MOST_MOVED = 0.17


class BoxRefinement(nn.Module):
    """Moves the sides of boxes and predicts their IoU, in stages that share their weights."""

    def __init__(
        self,
        in_channels: int,
        stride: int,
        *,
        stages: int,
        channels: int = 16,
        norm: str = "",
        giou_weight: float = 10.0,
        quality_weight: float = 1.0,
        score_power: float = 0.5,
    ) -> None:
        """
        Args:
            in_channels: of the feature map.
            stride: input pixels per cell.
            stages: how often boxes are refined.
            channels: of what is read at the points.
            norm: normalisation after the 3x3 convolution.
            giou_weight: weight of the loss of the refined boxes, 1 - GIoU.
            quality_weight: weight of the binary cross-entropy of the predicted IoU.
            score_power: p in [0, 1] of ``score ** (1 - p) * IoU ** p``.

        Raises:
            ValueError: ``score_power`` is out of range, or there is no stage.
        """
        super().__init__()
        if not 0 <= score_power <= 1:
            raise ValueError(
                f"MODEL.DET_HEAD.REFINE.SCORE_POWER_TEST: found {score_power}, expected 0 to 1"
            )
        if stages < 1:
            raise ValueError(f"MODEL.DET_HEAD.REFINE.STAGES: found {stages}, expected 0 or more")
        self.stride, self.stages, self.score_power = stride, stages, score_power
        self.giou_weight, self.quality_weight = giou_weight, quality_weight
        self.conv = Conv2d(
            in_channels,
            channels,
            3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, channels),
            activation=nn.ReLU(inplace=True),
        )
        self.hidden = nn.Linear(_POINTS * _POINTS * channels, _HIDDEN)
        self.sides = nn.Linear(_HIDDEN, 4)
        self.quality = nn.Linear(_HIDDEN, 1)
        for layer in (self.conv, self.hidden):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for layer in (self.sides, self.quality):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)
        # Most boxes that a fresh network finds are none.
        nn.init.constant_(self.quality.bias, HEATMAP_BIAS)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> the map (N, C, h, w) that is read at the points."""
        return self.conv(feature)

    def targets(self, labels: BatchLabels) -> Targets:
        """The objects of each image as a table, whose empty places have class -1.

        ``boxes`` (N, T, 4), ``near`` (N, T, 4) the same with moved sides, ``classes`` (N, T),
        ``weight`` (N, T) their confidence, ``class_labelled`` (N, classes or 1) bool, ``ignored``
        (N, 1, h, w) bool, the cells of crowds. On the processor but for the last.
        """
        objects = labels.objects(self.stride)
        counts = torch.bincount(objects.image_index, minlength=len(objects.labelled))
        shape = len(counts), max(int(counts.max()), 1)
        first = (counts.cumsum(0) - counts)[objects.image_index]
        place = objects.image_index, torch.arange(len(first)) - first
        boxes, near = torch.zeros(*shape, 4), torch.zeros(*shape, 4)
        classes, weight = torch.full(shape, -1), torch.ones(shape)
        # Digits of the sides as random numbers: two processes draw what one would for both batches.
        moves = ((objects.boxes * 97.31).frac() * 2 - 1) * _MOST_MOVED
        boxes[place], near[place] = objects.boxes, objects.boxes + moves * objects.wh.repeat(1, 2)
        classes[place] = objects.classes
        if objects.confidence is not None:
            weight[place] = objects.confidence
        return {
            "boxes": boxes,
            "near": near,
            "classes": classes,
            "weight": weight,
            "class_labelled": labels.flags("labelled_classes") & objects.labelled[:, None],
            "ignored": labels.ignored_cells(self.stride),
        }

    def losses(
        self, read_map: Tensor, boxes: Tensor, decoded: Decoded, targets: Targets
    ) -> dict[str, Tensor]:
        """``loss_det_refined`` and ``loss_det_quality``, of all stages.

        Args:
            read_map: of :meth:`forward`.
            boxes: (N, P, 4) at the peaks, without a graph.
            decoded: the peaks, and which of them are found.
            targets: of :meth:`targets`.
        """
        found = boxes[:, :_NUM_FOUND]
        num_found = found.shape[1]
        proposals = torch.cat([found, targets["near"]], 1)
        peak_classes, truth = decoded.peaks.channels[:, :num_found], targets["classes"]
        classes = torch.cat([peak_classes, truth], 1)
        # Ranks that only fill up the batch are no boxes: how many there are depends on the device.
        used = torch.cat([decoded.found[:, :num_found], truth >= 0], 1)
        # Of a box in a crowd, and of a class that the image does not label, nothing is known.
        known = torch.cat([_known(decoded, num_found, targets), truth >= 0], 1) & used
        same = (classes[..., None] == truth[:, None]) & (truth >= 0)[:, None]  # (N, P, T)
        refined_loss = quality_loss = read_map.new_zeros((), dtype=torch.float32)
        for _ in range(self.stages):
            refined, quality = self.refine(read_map, proposals)
            _, overlap = giou_of_pairs(proposals[:, :, None], targets["boxes"][:, None])
            iou, match = (overlap * same).max(-1)
            positive = (iou > _LEAST_IOU) & used
            matched = targets["boxes"].gather(1, match[..., None].expand(-1, -1, 4))
            giou, iou = giou_of_pairs(refined, matched)
            weight = torch.where(positive, targets["weight"].gather(1, match), 1.0)
            count = average_over_workers(positive.sum())
            refined_loss = refined_loss + ((1 - giou) * positive * weight).sum() / count
            entropy = F.binary_cross_entropy_with_logits(
                quality, iou.detach() * positive, reduction="none"
            )
            quality_loss = quality_loss + (entropy * (positive | known) * weight).sum() / count
            proposals = refined.detach()
        return {
            "loss_det_refined": refined_loss * self.giou_weight,
            "loss_det_quality": quality_loss * self.quality_weight,
        }

    def inference(self, read_map: Tensor, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, P, 4) and scores (N, P) -> the same, refined."""
        quality = scores
        for _ in range(self.stages):
            boxes, quality = self.refine(read_map, boxes)
        power = self.score_power
        return boxes, scores ** (1 - power) * quality.sigmoid() ** power

    def refine(self, read_map: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """One stage: boxes (N, P, 4) -> boxes, and logits (N, P) of their IoU; float32."""
        hidden = F.relu(self.hidden(values_at_points(read_map, boxes)))
        size = boxes[..., 2:] - boxes[..., :2]
        moves = self.sides(hidden).float() * size.repeat(1, 1, 2) * _STEP
        return _ordered(boxes + moves), self.quality(hidden).float()[..., 0]


def values_at_points(read_map: Tensor, boxes: Tensor) -> Tensor:
    """(N, P, points * C), bilinear; zero outside of the map.

    Args:
        read_map: (N, C, h, w).
        boxes: (N, P, 4).
    """
    height, width = read_map.shape[2:]
    steps = torch.linspace(-_REACH / 2, _REACH / 2, _POINTS, device=boxes.device)
    center, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    x = (center[..., :1] + size[..., :1] * steps) * (2 / width) - 1  # (N, P, points a side)
    y = (center[..., 1:] + size[..., 1:] * steps) * (2 / height) - 1
    rows = y[..., :, None].expand(-1, -1, -1, _POINTS)
    columns = x[..., None, :].expand(-1, -1, _POINTS, -1)
    points = torch.stack([columns, rows], -1).flatten(2, 3)  # (N, P, points, 2)
    values = F.grid_sample(read_map.float(), points, align_corners=False)  # (N, C, P, points)
    return values.permute(0, 2, 3, 1).flatten(2)


def _ordered(boxes: Tensor) -> Tensor:
    """Boxes whose sides may have changed places -> boxes."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(low, high), torch.maximum(low, high)], -1)


def _known(decoded: Decoded, num_found: int, targets: Targets) -> Tensor:
    """(N, P) bool: whether a found box that is no object's is known to be none."""
    x, y = decoded.peaks.xy[:, :num_found].unbind(-1)
    image = torch.arange(len(x), device=x.device)[:, None]
    ignored = targets["ignored"][image, 0, y, x]
    labelled, channels = targets["class_labelled"], decoded.peaks.channels[:, :num_found]
    return labelled.gather(1, channels.clamp(max=labelled.shape[1] - 1)) & ~ignored
