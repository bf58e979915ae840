"""The occlusion task: where one object hides another, and on which side the one in front is.

As in DOC (arXiv 1511.06881) and its followers two things are predicted for every pixel: whether an
occlusion boundary runs through it, and which way the occluder, the object in front, lies from
there. DOC regresses the boundary's angle; here the direction is a vector, which has no jump at 180
degrees. The answer is one vector field: the direction, as long as the boundary is probable.

Directions: unit vectors (x, y), image axes, y down, from the boundary to the occluder.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.data.labels.edges import OcclusionLabel
from d2_multitask.heads.base import Decoded, Predictions, Targets
from d2_multitask.heads.boundary import PRIOR_LOGIT
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.heads.dense import DenseHead, add_branch_config, to_input_size
from d2_multitask.losses import balanced_binary_cross_entropy, direction_loss
from d2_multitask.targets.encode import BatchLabels, pad_label_maps


@TASK_HEAD_REGISTRY.register("occlusion")
class OcclusionHead(DenseHead):
    """Occlusion boundaries (balanced binary cross-entropy) and directions (cosine)."""

    labels: ClassVar = (OcclusionLabel,)
    label: ClassVar[str] = "occlusion"
    has_channels: ClassVar[bool] = True
    node_name: ClassVar[str] = "OCCLUSION_HEAD"

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        positive_weight: float = 0.0,
        direction_radius: int = 0,
        boundary_weight: float = 1.0,
        direction_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            positive_weight: see :func:`d2_multitask.losses.balanced_binary_cross_entropy`.
            direction_radius: directions are also learned so many input pixels beside a boundary.
            boundary_weight: weight of the boundary's loss.
            direction_weight: weight of the direction's loss.
            **kwargs: see :class:`DenseHead`.
        """
        super().__init__(input_shape, **kwargs)
        self.positive_weight, self.direction_radius = positive_weight, direction_radius
        self.boundary_weight, self.direction_weight = boundary_weight, direction_weight
        self.boundary = self.branch(1, bias=PRIOR_LOGIT)
        self.direction = self.branch(2)

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.OCCLUSION_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.OCCLUSION_HEAD = node = CfgNode()
        add_branch_config(node, conv_dim=64)
        # As in MODEL.BOUNDARY_HEAD, but with HED's weight, from the batch's own shares: between all
        # boundaries and the few of overlapping objects, datasets differ by a factor of ten.
        node.UPSCALE = 4
        node.POSITIVE_WEIGHT = 0.0
        # Boundaries are scored within a few pixels, and there the direction must be right too.
        node.DIRECTION_RADIUS = 2
        node.BOUNDARY_WEIGHT = 1.0
        node.DIRECTION_WEIGHT = 1.0

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> boundary logits (N, 1, h, w), direction (N, 2, h, w) of any length."""
        return {
            "occlusion_boundary": self.run(self.boundary, features),
            "occlusion": self.run(self.direction, features),
        }

    def targets(self, labels: BatchLabels) -> Targets:
        """Boundary (N, H, W) int64, ignored in padding and unlabelled images; direction (N, 2, H,
        W), zero where there is none to learn.
        """
        fields = [x.get("occlusion") for x in labels.batched_inputs]
        padded_hw = tuple(labels.images.tensor.shape[-2:])
        field = pad_label_maps(fields, padded_hw, math.nan, labels.device, (2,), torch.float32)
        unlabelled = field[:, 0].isnan()
        field = field.nan_to_num_(0)
        boundary = (field != 0).any(1).long()
        return {
            "occlusion_boundary": boundary.masked_fill(unlabelled, self.ignore_value),
            "occlusion": spread_directions(field, self.direction_radius),
        }

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_occlusion_boundary`` and ``loss_occlusion_direction``."""
        labels, field = targets["occlusion_boundary"], targets["occlusion"]
        padded_hw = tuple(labels.shape[1:])
        logits = to_input_size(predictions["occlusion_boundary"], self.stride, padded_hw)
        direction = to_input_size(predictions["occlusion"], self.stride, padded_hw)
        boundary_loss = balanced_binary_cross_entropy(
            logits[:, 0], labels, self.positive_weight, self.ignore_value
        )
        return {
            "loss_occlusion_boundary": boundary_loss * self.boundary_weight,
            "loss_occlusion_direction": direction_loss(direction, field) * self.direction_weight,
        }

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add ``occlusion`` (N, 2, h, w): towards the occluder, as long as the boundary is
        probable. Angles turn with the aspect ratio if the output's is another.
        """
        decoded.maps["occlusion"] = _likely_direction(predictions)

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average the logits and the directions; a mirror turns x around."""
        mirrored = flipped["occlusion"].flip(-1) * flipped["occlusion"].new_tensor(
            [[[-1.0]], [[1.0]]]
        )
        boundary = predictions["occlusion_boundary"] + flipped["occlusion_boundary"].flip(-1)
        return {
            "occlusion_boundary": boundary / 2,
            "occlusion": (predictions["occlusion"] + mirrored) / 2,
        }

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """``occlusion_x`` and ``occlusion_y`` (N, H, W): 1 = occluder at the right or below, 0 = at
        the left or above, 0.5 = neither.
        """
        return _component_maps(targets["occlusion"])

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """As ``target_maps``, fading to 0.5 where no boundary is predicted."""
        return _component_maps(_likely_direction(predictions))


def _likely_direction(predictions: Predictions) -> Tensor:
    """(N, 2, h, w): the unit direction times the boundary's probability."""
    direction = F.normalize(predictions["occlusion"].float(), dim=1)
    return direction * predictions["occlusion_boundary"].float().sigmoid()


def _component_maps(field: Tensor) -> dict[str, Tensor]:
    x, y = ((field + 1) / 2).clamp(0, 1).unbind(1)
    return {"occlusion_x": x, "occlusion_y": y}


def spread_directions(field: Tensor, radius: int) -> Tensor:
    """Give the pixels beside labelled ones the mean direction of those in reach.

    Args:
        field: (N, 2, H, W) unit vectors, zero where there is no label.
        radius: reach, pixels, in each axis.

    Returns:
        (N, 2, H, W) unit vectors; zero out of reach, and where opposite directions meet and their
        mean says nothing. Labelled pixels keep their own direction.
    """
    if radius <= 0:
        return field
    window = 2 * radius + 1
    total = F.avg_pool2d(field, window, 1, radius, divisor_override=1)
    count = F.avg_pool2d(
        (field != 0).any(1, keepdim=True).float(), window, 1, radius, divisor_override=1
    )
    length = total.square().sum(1, keepdim=True).sqrt()  # norm() is many times slower on CPUs
    agree = (count > 0) & (length > 0.5 * count)
    spread = torch.where(agree, total / length.clamp(min=1e-6), torch.zeros_like(total))
    return torch.where((field != 0).any(1, keepdim=True), field, spread)
