"""The human-parts task: head, torso, upper and lower arms and legs, or background, per pixel."""

from __future__ import annotations

from typing import ClassVar

from detectron2.config import CfgNode

from d2_multitask.data.labels.sem_seg import PartSegLabel
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.heads.dense import LabelMapHead, add_branch_config


@TASK_HEAD_REGISTRY.register("parts")
class PartsHead(LabelMapHead):
    """Part segmentation: semantic segmentation with the labels ``part_seg``."""

    labels: ClassVar = (PartSegLabel,)
    label: ClassVar[str] = "part_seg"
    loss_name: ClassVar[str] = "loss_parts"
    node_name: ClassVar[str] = "PARTS_HEAD"
    teacher_keys: ClassVar = ("MODEL.PARTS_HEAD.NUM_CLASSES",)

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.PARTS_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.PARTS_HEAD = node = CfgNode()
        # Background and the six parts of the multitask literature on PASCAL-Context (ASTMT on).
        node.NUM_CLASSES = 7
        # People without part labels, and padding.
        add_branch_config(node, conv_dim=64)
        # That literature's semantic : parts = 1 : 2, since most pixels are background.
        node.LOSS_WEIGHT = 2.0
