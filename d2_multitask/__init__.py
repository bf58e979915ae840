"""Multitask networks and anchor-free detection on Detectron2.

Importing the package registers everything under its name: datasets, networks, backbones, heads.
Where PyTorch or Detectron2 is not installed, what needs neither can be imported, prediction with
exported networks (`d2_multitask.runtime`) above all; everything else says what to type.
"""

from __future__ import annotations

import importlib
from typing import Any

from d2_multitask.dependencies import check_dependencies, has_torch_and_detectron2, refuse_others
from d2_multitask.loading import load
from d2_multitask.version import __version__

if has_torch_and_detectron2():
    # First: where a library does not fit the others, the error says what to type.
    check_dependencies()

    import d2_multitask._moved  # noqa: F401 (old names of modules)
    import d2_multitask.data.datasets.builtin  # noqa: F401 (registers the datasets)
    from d2_multitask.config import add_multitask_config, get_multitask_cfg, load_config
    from d2_multitask.data.datasets.coco import register_coco_format
    from d2_multitask.data.datasets.folders import register_mask_folder
    from d2_multitask.data.datasets.from_config import register_datasets
    from d2_multitask.heads import TASK_HEAD_REGISTRY  # registers the heads
    from d2_multitask.model_configs import get_config_file
    from d2_multitask.modeling import (  # registers the networks
        MultitaskCenterNet,
        MultitaskMAE,
        MultitaskRCNN,
    )

    __all__ = [
        "TASK_HEAD_REGISTRY",
        "MultitaskCenterNet",
        "MultitaskMAE",
        "MultitaskRCNN",
        "__version__",
        "add_multitask_config",
        "get_config_file",
        "get_multitask_cfg",
        "load",
        "load_config",
        "register_coco_format",
        "register_datasets",
        "register_mask_folder",
    ]
else:
    refuse_others()
    __all__ = ["__version__", "load"]

    def __getattr__(name: str) -> Any:
        """A module that needs neither PyTorch nor Detectron2; any other name is an ImportError."""
        if name.startswith("__"):  # what Python itself looks for
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(f"{__name__}.{name}")
