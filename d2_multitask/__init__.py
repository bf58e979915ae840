"""Multitask networks and anchor-free detection on Detectron2.

Importing the package registers everything under its name: datasets, networks, backbones, heads.
"""

from __future__ import annotations

# First: where PyTorch or Detectron2 is missing, the error says what to type.
from d2_multitask.dependencies import check_dependencies

check_dependencies()

import d2_multitask._moved  # noqa: E402, F401 (old names of modules)
import d2_multitask.data.datasets.builtin  # noqa: E402, F401 (registers the datasets)
from d2_multitask.config import (  # noqa: E402
    add_multitask_config,
    get_multitask_cfg,
    load_config,
)
from d2_multitask.data.datasets.coco import register_coco_format  # noqa: E402
from d2_multitask.data.datasets.folders import register_mask_folder  # noqa: E402
from d2_multitask.data.datasets.from_config import register_datasets  # noqa: E402
from d2_multitask.heads import TASK_HEAD_REGISTRY  # noqa: E402 (registers the heads)
from d2_multitask.model_configs import get_config_file  # noqa: E402
from d2_multitask.modeling import (  # noqa: E402 (registers the networks)
    MultitaskCenterNet,
    MultitaskMAE,
    MultitaskRCNN,
)

__version__ = "0.1.0"

__all__ = [
    "TASK_HEAD_REGISTRY",
    "MultitaskCenterNet",
    "MultitaskMAE",
    "MultitaskRCNN",
    "__version__",
    "add_multitask_config",
    "get_config_file",
    "get_multitask_cfg",
    "load_config",
    "register_coco_format",
    "register_datasets",
    "register_mask_folder",
]
