"""The occlusion task: where one object hides another, and on which side the one in front is.

As in DOC (arXiv 1511.06881) and its followers two things are predicted for every pixel: whether an
occlusion boundary runs through it, and which way the occluder, the object in front, lies from
there. DOC regresses the boundary's angle; here the direction is a vector, which has no jump at 180
degrees. The answer is one vector field: the direction, as long as the boundary is probable.

Directions: unit vectors (x, y), image axes, y down, from the boundary to the occluder.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.heads.base import Decoded, Predictions, Targets
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.heads.dense import (
    DenseHead,
    add_branch_config,
    branch_arguments,
    labelled_maps,
    resize_maps,
    to_input_size,
)
from d2_multitask.losses import balanced_binary_cross_entropy, direction_loss

# A fresh map starts at this probability, about the share of boundary pixels after balancing.
_PRIOR_LOGIT = -1.0


@TASK_HEAD_REGISTRY.register("occlusion")
class OcclusionHead(DenseHead):
    """Occlusion boundaries (balanced binary cross-entropy) and directions (cosine)."""

    _UNLABELLED = 255

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dim: int,
        norm: str = "",
        upscale: int = 1,
        positive_weight: float = 0.0,
        direction_radius: int = 0,
        loss_weights: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            conv_dim: channels of the convolutions.
            norm: normalisation after them.
            upscale: sub-cells a cell predicts along each side.
            positive_weight: see :func:`d2_multitask.losses.balanced_binary_cross_entropy`.
            direction_radius: directions are also learnt so many input pixels beside a boundary.
            loss_weights: of the boundary and of the direction.
        """
        super().__init__(input_shape, upscale)
        self.positive_weight, self.direction_radius = positive_weight, direction_radius
        self.boundary_weight, self.direction_weight = loss_weights
        self.boundary = self.branch(conv_dim, 1, norm, bias=_PRIOR_LOGIT)
        self.direction = self.branch(conv_dim, 2, norm)

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.OCCLUSION_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.OCCLUSION_HEAD = node = CfgNode()
        add_branch_config(node, conv_dim=64)
        # As in MODEL.BOUNDARY_HEAD, but with HED's weight, from the batch's own shares: between all
        # boundaries and the few of overlapping objects, data sets differ by a factor of ten.
        node.UPSCALE = 4
        node.POSITIVE_WEIGHT = 0.0
        # Boundaries are scored within a few pixels, and there the direction must be right too.
        node.DIRECTION_RADIUS = 2
        node.BOUNDARY_WEIGHT = 1.0
        node.DIRECTION_WEIGHT = 1.0

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``."""
        node = cfg.MODEL.OCCLUSION_HEAD
        return {
            **branch_arguments(node, "MODEL.OCCLUSION_HEAD", input_shape),
            "upscale": node.UPSCALE,
            "positive_weight": node.POSITIVE_WEIGHT,
            "direction_radius": node.DIRECTION_RADIUS,
            "loss_weights": (node.BOUNDARY_WEIGHT, node.DIRECTION_WEIGHT),
        }

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> boundary logits (N, 1, h, w), direction (N, 2, h, w) of any length."""
        return {
            "occlusion_boundary": self.run(self.boundary, features),
            "occlusion": self.run(self.direction, features),
        }

    def targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Targets:
        """Boundary (N, H, W) int64, ignored in padding and unlabelled images; direction (N, 2, H,
        W), zero where there is none to learn.
        """
        fields = [x.get("occlusion") for x in batched_inputs]
        padded_hw, device = tuple(images.tensor.shape[-2:]), images.tensor.device
        field, labelled = labelled_maps(fields, padded_hw, device, channels=2)
        boundary = (field != 0).any(1).long()
        return {
            "occlusion_boundary": boundary.masked_fill(~labelled, self._UNLABELLED),
            "occlusion": spread_directions(field, self.direction_radius),
        }

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_occlusion_boundary`` and ``loss_occlusion_direction``."""
        labels, field = targets["occlusion_boundary"], targets["occlusion"]
        padded_hw = tuple(labels.shape[1:])
        logits = to_input_size(predictions["occlusion_boundary"], self.stride, padded_hw)
        direction = to_input_size(predictions["occlusion"], self.stride, padded_hw)
        boundary_loss = balanced_binary_cross_entropy(
            logits[:, 0], labels, self.positive_weight, self._UNLABELLED
        )
        return {
            "loss_occlusion_boundary": boundary_loss * self.boundary_weight,
            "loss_occlusion_direction": direction_loss(direction, field) * self.direction_weight,
        }

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add ``occlusion`` (N, 2, h, w): towards the occluder, as long as the boundary is
        probable.
        """
        direction = F.normalize(predictions["occlusion"].float(), dim=1)
        probability = predictions["occlusion_boundary"].float().sigmoid()
        decoded.maps["occlusion"] = direction * probability

    def postprocess(
        self,
        decoded: Decoded,
        index: int,
        image_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> dict[str, Any]:
        """-> ``{"occlusion": (2, height, width)}`` at the output size.

        Lengths stay probabilities; angles turn with the aspect ratio if that changes.
        """
        field = resize_maps(decoded.maps["occlusion"][index], self.stride, image_size, output_size)
        return {"occlusion": field}

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
        """As ``target_maps``, fading to 0.5 where no boundary is seen."""
        probability = predictions["occlusion_boundary"].float().sigmoid()
        return _component_maps(F.normalize(predictions["occlusion"].float(), dim=1) * probability)


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
