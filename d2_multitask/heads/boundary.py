"""The boundary task: the probability that an object boundary runs through a pixel.

Boundaries are one pixel wide and are scored within a few pixels, so a stride-4 cell is too coarse
for them: each cell predicts its sub-cells, and learning happens at the input's resolution, where
the labels are. That costs one channel; bringing the labels down to the cells instead (a maximum
over each cell, so that no line vanishes) would thicken them.
"""

from __future__ import annotations

from typing import Any, ClassVar

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor

from d2_multitask.data.labels.edges import BoundaryLabel
from d2_multitask.heads.base import Predictions, Targets
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.heads.dense import DenseHead, add_branch_config
from d2_multitask.losses import balanced_binary_cross_entropy

# A fresh map starts at this logit, about the share of boundary pixels after balancing.
PRIOR_LOGIT = -1.0


@TASK_HEAD_REGISTRY.register("boundary")
class BoundaryHead(DenseHead):
    """Boundary detection, learned by class-balanced binary cross-entropy."""

    labels: ClassVar = (BoundaryLabel,)
    label: ClassVar[str] = "boundary"
    node_name: ClassVar[str] = "BOUNDARY_HEAD"

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        positive_weight: float = 0.0,
        loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read.
            positive_weight: see :func:`d2_multitask.losses.balanced_binary_cross_entropy`.
            loss_weight: weight of the loss.
            **kwargs: see :class:`DenseHead`.
        """
        super().__init__(input_shape, **kwargs)
        self.positive_weight, self.loss_weight = positive_weight, loss_weight
        self.boundary = self.branch(1, bias=PRIOR_LOGIT)

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.BOUNDARY_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.BOUNDARY_HEAD = node = CfgNode()
        add_branch_config(node, conv_dim=64)
        # Sub-cells along a cell's side; 4 = the input's own resolution.
        node.UPSCALE = 4
        # Weight of boundary pixels against 1 minus it for all others: ASTMT's value and that of the
        # work after it. 0 = HED's, from the batch's own shares.
        node.POSITIVE_WEIGHT = 0.95
        # The loss is a weighted mean, so it starts at the size of the others.
        node.LOSS_WEIGHT = 1.0

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_boundary``."""
        logits, labels = self.logits_and_labels(predictions, targets)
        loss = balanced_binary_cross_entropy(
            logits, labels, self.positive_weight, self.ignore_value
        )
        return {"loss_boundary": loss * self.loss_weight}
