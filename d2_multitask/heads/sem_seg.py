"""The segmentation task: a class for every pixel.

The MCN paper adds one more head next to CenterNet's; its exact form is not published. On one
feature map this one is CenterNet's branch (3x3 and 1x1 convolution), on a pyramid Panoptic FPN's.
"""

from __future__ import annotations

from typing import Any, ClassVar

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from d2_multitask.data.labels.sem_seg import SemSegLabel
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.heads.dense import LabelMapHead, dense_shapes


@TASK_HEAD_REGISTRY.register("seg")
class SemSegHead(LabelMapHead):
    """Semantic segmentation; its keys are those of ``MODEL.SEM_SEG_HEAD``."""

    labels: ClassVar = (SemSegLabel,)
    label: ClassVar[str] = "sem_seg"
    teacher_keys: ClassVar = ("MODEL.SEM_SEG_HEAD.NUM_CLASSES",)
    loss_name: ClassVar[str] = "loss_seg"
    # Where Detectron2's Panoptic FPN keeps the same layers; see `checkpoint.matching`.
    weight_aliases: ClassVar[dict[str, str]] = {"sem_seg_head.": "sem_seg."}

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Add to Detectron2's ``MODEL.SEM_SEG_HEAD``; see :meth:`TaskHead.add_config`."""
        # Learn from every n-th pixel in each axis; 1 is Detectron2's way. With dozens of classes a
        # softmax for every pixel takes as long as a small network; 2 takes a quarter of it.
        cfg.MODEL.SEM_SEG_HEAD.LOSS_STRIDE = 1
        # Depthwise 3x3 convolutions, of several maps from the coarsest to the finest: small, fast.
        cfg.MODEL.SEM_SEG_HEAD.SEPARABLE = False

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Config and backbone outputs -> arguments of ``__init__``.

        ``IN_FEATURES`` as Detectron2's default has them, a pyramid, are those that the backbone
        has: MCN's has "p2" alone. In any other list each must exist.
        """
        node = cfg.MODEL.SEM_SEG_HEAD
        names = node.IN_FEATURES
        if names == ["p2", "p3", "p4", "p5"]:
            names = [name for name in names if name in input_shape] or names
        return {
            "input_shape": dense_shapes(input_shape, names, "MODEL.SEM_SEG_HEAD.IN_FEATURES"),
            "num_classes": node.NUM_CLASSES,
            "conv_dim": node.CONVS_DIM,
            "norm": node.NORM,
            "ignore_value": node.IGNORE_VALUE,
            "loss_weight": node.LOSS_WEIGHT,
            "loss_stride": node.LOSS_STRIDE,
            "separable": node.SEPARABLE,
        }
