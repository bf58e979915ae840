"""A registered data set of PASCAL in Detail's type, and a config that switches all eight on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_multitask.config import get_multitask_cfg
from d2_multitask.data.datasets.pascal_in_detail.names import pascal_in_detail_metadata

_NUMBERS = itertools.count()

RegisterRecords = Callable[..., str]


@pytest.fixture
def register_records() -> Iterator[RegisterRecords]:
    """Registers dicts; the names are removed afterwards."""
    names = []

    def register(records: list[dict[str, Any]], person_only: bool = False) -> str:
        name = f"detail_test_{next(_NUMBERS)}"
        DatasetCatalog.register(name, lambda: records)
        metadata = pascal_in_detail_metadata(person_only)
        MetadataCatalog.get(name).set(evaluator_type="pascal_in_detail", **metadata)
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    cfg = get_multitask_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.MODEL.TASKS = ["seg", "det", "parts", "boundary", "occlusion", "classification"]
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 59
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 14
    cfg.TEST.PASCAL_IN_DETAIL.NUM_WORKERS = 0
    return cfg
