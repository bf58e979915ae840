"""Task heads: one file, one registered name each. Importing the package registers all of them."""

import importlib
import pkgutil

from d2_multitask.heads.base import Branch, Decoded, TaskHead
from d2_multitask.heads.boundary import BoundaryHead
from d2_multitask.heads.box import BoxHead
from d2_multitask.heads.build import TASK_HEAD_REGISTRY, build_heads
from d2_multitask.heads.center import CenterHead
from d2_multitask.heads.classification import ClassificationHead
from d2_multitask.heads.dense import DenseHead
from d2_multitask.heads.label_map import LabelMapHead
from d2_multitask.heads.occlusion import OcclusionHead
from d2_multitask.heads.parts import PartsHead
from d2_multitask.heads.pose import PoseHead
from d2_multitask.heads.sem_seg import SemSegHead

# A new head is a new file in this folder and not a line elsewhere, not even here.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "TASK_HEAD_REGISTRY",
    "BoundaryHead",
    "BoxHead",
    "Branch",
    "CenterHead",
    "ClassificationHead",
    "Decoded",
    "DenseHead",
    "LabelMapHead",
    "OcclusionHead",
    "PartsHead",
    "PoseHead",
    "SemSegHead",
    "TaskHead",
    "build_heads",
]
