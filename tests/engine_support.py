"""A training that takes seconds: a few small images on disk, a network of one backbone layer."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from PIL import Image
from torch import Tensor

from d2_multitask.config import get_multitask_cfg
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.problems import DATA_REPORT
from support import TinyBackbone

SIZE = 64
_NUMBERS = itertools.count()


def build_engine_test_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TinyBackbone:
    return TinyBackbone()


if "build_engine_test_backbone" not in BACKBONE_REGISTRY:
    BACKBONE_REGISTRY.register(build_engine_test_backbone)


def write_people(folder: Path, num_images: int = 4) -> Path:
    """Grey images with a bright person-sized box each, labelled for all tasks; returns the JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, num_images + 1):
        x, y = (int(v) for v in generator.integers(4, 24, size=2))
        w, h = 20, 32
        pixels = np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)
        pixels[y : y + h, x : x + w] = 220
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": SIZE, "width": SIZE})
        outline = [x, y, x + w, y, x + w, y + h, x, y + h]
        joints = [[x + w // 2, y + 1 + i, 2] for i in range(17)]
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [outline],
                "keypoints": [value for joint in joints for value in joint],
                "num_keypoints": 17,
            }
        )
    category = {"id": 1, "name": "person", "keypoints": COCO_PERSON_KEYPOINT_NAMES, "skeleton": []}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    path = folder / "people.json"
    path.write_text(json.dumps(content))
    return path


@contextlib.contextmanager
def registered_people(folder: Path, num_images: int = 4) -> Iterator[str]:
    """The images of `write_people` under a name, for as long as it lasts."""
    name = f"engine_test_{next(_NUMBERS)}"
    register_coco_format(name, str(write_people(folder, num_images)), str(folder))
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        DATA_REPORT.clear()


def tiny_cfg(dataset_name: str, output_dir: Path, **overrides: Any) -> CfgNode:
    """Three tasks, three iterations of two images; ``SOLVER__MAX_ITER=5`` overrides a key."""
    cfg = get_multitask_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MultitaskCenterNet"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_engine_test_backbone"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TRAIN = (dataset_name,)
    cfg.DATASETS.TEST = (dataset_name,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.SCALE_CROP.ENABLED = True
    cfg.INPUT.SCALE_CROP.SIZE = (SIZE, SIZE)
    cfg.INPUT.SCALE_CROP.BORDER = 8
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.SOLVER.OPTIMIZER = "ADAM"
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.BASE_LR = 0.001
    cfg.SOLVER.MAX_ITER = 3
    cfg.SOLVER.STEPS = ()
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(output_dir)
    for key, value in overrides.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Every number of two checkpoints."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        expected = list(expected.items())
        found = list(found.items())
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for number, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_same(a, b, f"{where}.{b[0] if isinstance(b, tuple) else number}")
    elif isinstance(expected, Tensor):
        assert torch.equal(found, expected), where
    else:
        assert found == expected, where
