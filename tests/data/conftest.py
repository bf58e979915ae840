"""A small COCO-format data set on disk, which tests break in one place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_multitask.config import get_multitask_cfg
from d2_multitask.data.problems import DATA_REPORT

JOINTS = ["nose", "left_hand", "right_hand"]
SIZE = (24, 32)  # h, w


@pytest.fixture(autouse=True)
def clean_state() -> Iterator[None]:
    """Each test starts with an empty report, and leaves the catalogues as it found them."""
    names = set(DatasetCatalog), set(MetadataCatalog)
    DATA_REPORT.clear()
    yield
    for catalog, before in zip((DatasetCatalog, MetadataCatalog), names, strict=True):
        for name in set(catalog) - before:
            catalog.remove(name)


@pytest.fixture
def coco() -> dict[str, Any]:
    """Content of a JSON: two images, three people, one of them a crowd."""
    person = {"id": 7, "name": "person", "keypoints": JOINTS, "skeleton": [[1, 2], [1, 3]]}
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 2, "file_name": "b.png", "height": SIZE[0], "width": SIZE[1]},
        ],
        "annotations": [
            {
                "id": 11,
                "image_id": 1,
                "category_id": 7,
                "iscrowd": 0,
                "bbox": [4, 2, 8, 16],
                "segmentation": [[4, 2, 12, 2, 12, 18, 4, 18]],
                "keypoints": [8, 4, 2, 10, 9, 1, 0, 0, 0],
            },
            {
                "id": 12,
                "image_id": 1,
                "category_id": 7,
                "iscrowd": 1,
                "bbox": [20, 4, 8, 8],
                "segmentation": {"size": list(SIZE), "counts": [20 * 24 + 4, 8, 16, 8, 252]},
            },
            {"id": 13, "image_id": 2, "category_id": 7, "iscrowd": 0, "bbox": [1, 1, 10, 10]},
        ],
        "categories": [person],
    }


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes images and ``annotations.json``; returns the path of the JSON."""

    def write(content: Any) -> Path:
        rng = np.random.default_rng(0)
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in ("a.png", "b.png"):
            pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name)
        json_file = tmp_path / "annotations.json"
        json_file.write_text(content if isinstance(content, str) else json.dumps(content))
        return json_file

    return write


@pytest.fixture
def cfg() -> CfgNode:
    """The defaults with classes and keypoints of the small dataset, no augmentation."""
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = ["seg", "det", "pose"]
    cfg.MODEL.CENTER_HEAD.NUM_CLASSES = 1
    cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = len(JOINTS)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg
