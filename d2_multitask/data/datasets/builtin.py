"""Registers the data sets that come with a name. Importing it reads nothing from disk."""

from __future__ import annotations

import os

from d2_multitask.data.datasets.coco_people import register_coco_people, register_synthetic_people
from d2_multitask.data.datasets.pascal_in_detail import (
    register_pascal_in_detail,
    register_synthetic_in_detail,
)

# As in Detectron2: data sets live in one folder.
_ROOT = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))

register_coco_people(_ROOT)
register_synthetic_people(_ROOT)
register_pascal_in_detail(_ROOT)
register_synthetic_in_detail(_ROOT)
