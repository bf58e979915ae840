"""d2_multitask: multitask dense prediction and anchor-free detection on Detectron2."""

from __future__ import annotations

from d2_multitask.dependencies import check_dependencies

check_dependencies()

__version__ = "0.1.0"
