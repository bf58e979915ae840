"""Detectron2 opens maps that no file holds, or a file in other values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils.file_io import PathManager
from PIL import Image

from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.labels.sem_seg import SemSegLabel
from d2_multitask.data.mapper import MultitaskDatasetMapper


@pytest.fixture
def register(coco: dict, write_coco: Callable, tmp_path: Path) -> Iterator[Callable[..., list]]:
    def register_set(**options: Any) -> list[dict[str, Any]]:
        register_coco_format("maps", str(write_coco(coco)), str(tmp_path / "images"), **options)
        return DatasetCatalog.get("maps")

    yield register_set
    DatasetCatalog.pop("maps", None)
    MetadataCatalog.pop("maps", None)


def test_masks_open_as_a_map(register: Callable[..., list]) -> None:
    record = register()[0]
    ids = read_image(record["sem_seg_file_name"], "L")[..., 0]
    assert ids.shape == (record["height"], record["width"])
    assert set(np.unique(ids)) <= {0, 1, 255} and (ids == 1).any()
    assert "sem_seg_file_name" not in load_dataset("maps")[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Maps in other values: 9 (ignored), 200 (class 1) and 7 (class 0), from top to bottom."""
    folder = tmp_path / "maps"
    folder.mkdir()
    values = np.full((24, 32), 7, np.uint8)
    values[:12], values[:2] = 200, 9
    for stem in "ab":
        Image.fromarray(values).save(folder / f"{stem}.png")
    return folder


def test_other_values_open_as_class_ids(register: Callable[..., list], folder: Path) -> None:
    record = register(sem_seg_root=folder, sem_seg_ids={7: 0, 200: 1}, sem_seg_ignore=9)[0]
    ids = read_image(record["sem_seg_file_name"], "L")[..., 0]
    assert (ids[:2] == 255).all() and (ids[2:12] == 1).all() and (ids[12:] == 0).all()
    assert load_dataset("maps")[0]["sem_seg_file_name"].startswith(str(folder))


def test_our_mapper_translates_values_once(register: Callable[..., list], folder: Path) -> None:
    # Detectron2's loaders give a mapper the catalog's own dicts.
    record = register(sem_seg_root=folder, sem_seg_ids={7: 0, 200: 1}, sem_seg_ignore=9)[0]
    mapper = MultitaskDatasetMapper(True, augmentations=[], labels=[SemSegLabel(2)])
    ids = mapper(record)["sem_seg"]
    assert (ids[:2] == 255).all() and (ids[2:12] == 1).all() and (ids[12:] == 0).all()


def test_made_maps_cannot_be_written(register: Callable[..., list]) -> None:
    with pytest.raises(ValueError, match="expected 'rb'"):
        PathManager.open(register()[0]["sem_seg_file_name"], "w")
