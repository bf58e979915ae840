"""No alarm on sets without a fault: what datasets/ draws, and real photographs where they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_multitask.config import load_config
from d2_multitask.data.datasets.pascal_in_detail import register_detail_layout
from doctor_support import entry, found
from support import needs_real_data, real_data
from synthetic.in_detail import write_synthetic_in_detail
from synthetic.in_detail.scene import DETAIL_CONFIG
from synthetic.people import SceneConfig, write_synthetic_people


def test_synthetic_people(tmp_path: Path) -> None:
    config = replace(SceneConfig(), short_side=(96, 112))
    cfg = load_config("quick/mcn_seg_det_pose.yaml")
    for seed, name in enumerate(("train", "val")):
        path = write_synthetic_people(tmp_path, name, 40, seed, config=config)
        root = tmp_path / "synthetic_people" / name
        keys = {"SEM_SEG_ROOT": str(root / "sem_seg"), "IMAGE_ROOT": str(root / "images")}
        cfg.DATASETS.REGISTER.append({**entry(f"clean_people_{name}", path), **keys})
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("clean_people_train",), ("clean_people_val",)
    assert found(cfg) == []


def test_synthetic_in_detail(tmp_path: Path) -> None:
    config = replace(DETAIL_CONFIG, short_side=(80, 96))
    path = write_synthetic_in_detail(tmp_path, 24, 8, 3, config=config)
    images = tmp_path / "synthetic_in_detail" / "VOCdevkit" / "VOC2010" / "JPEGImages"
    register_detail_layout("clean_detail", str(path), str(images))
    cfg = load_config("quick/mcn_in_detail.yaml")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("clean_detail_train",), ("clean_detail_val",)
    try:
        assert found(cfg) == []
    finally:
        for name in [name for name in DatasetCatalog if name.startswith("clean_detail")]:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@needs_real_data
@pytest.mark.parametrize("name", ["coco_people_overfit", "tud_pedestrians", "foreground_scratch"])
def test_photographs(name: str) -> None:
    """The data of a config, which names it below datasets/."""
    cfg = load_config(f"quick/{name}.yaml")
    root = str(real_data())
    cfg.DATASETS.REGISTER = [
        {k: _moved(v, root) for k, v in known.items()} for known in cfg.DATASETS.REGISTER
    ]
    for known in cfg.DATASETS.REGISTER:
        known["NAME"] += "_clean"
    for key in ("TRAIN", "TEST"):
        cfg.DATASETS[key] = tuple(f"{dataset}_clean" for dataset in cfg.DATASETS[key])
    assert found(cfg) == []


def _moved(value: Any, root: str) -> Any:
    return value.replace("datasets/", f"{root}/", 1) if isinstance(value, str) else value
