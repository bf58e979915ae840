"""Task heads: one file, one registered name each. Importing the package registers all of them."""

import importlib
import pkgutil

from d2_multitask.heads.base import Branch, Decoded, TaskHead
from d2_multitask.heads.boundary import BoundaryHead
from d2_multitask.heads.box import BoxHead
from d2_multitask.heads.build import TASK_HEAD_REGISTRY, TaskHeads, build_heads
from d2_multitask.heads.center import CenterHead, ObjectGrid
from d2_multitask.heads.classification import ClassificationHead
from d2_multitask.heads.dense import DenseHead, LabelMapHead
from d2_multitask.heads.foreground import ForegroundHead
from d2_multitask.heads.occlusion import OcclusionHead
from d2_multitask.heads.parts import PartsHead
from d2_multitask.heads.pose import KeypointMatching, PoseHead, PoseLossWeights
from d2_multitask.heads.sem_seg import SemSegHead
from d2_multitask.targets.encode import BatchLabels

# A new head is a new file in this folder and not a line elsewhere, not even here.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "TASK_HEAD_REGISTRY",
    "BatchLabels",
    "BoundaryHead",
    "BoxHead",
    "Branch",
    "CenterHead",
    "ClassificationHead",
    "Decoded",
    "DenseHead",
    "ForegroundHead",
    "KeypointMatching",
    "LabelMapHead",
    "ObjectGrid",
    "OcclusionHead",
    "PartsHead",
    "PoseHead",
    "PoseLossWeights",
    "SemSegHead",
    "TaskHead",
    "TaskHeads",
    "build_heads",
]
