"""Registered datasets of the tests of reports."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.datasets.pascal_in_detail.names import pascal_in_detail_metadata
from d2_multitask.data.problems import DATA_REPORT
from evaluation_support import HEIGHT, WIDTH, Register, people_cfg

_NUMBERS = itertools.count()

Names = list[str]


@pytest.fixture
def names() -> Iterator[Names]:
    """Names of datasets that are removed afterwards."""
    names: Names = []
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DATA_REPORT.clear()


def write_image(path: Path) -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def register(tmp_path: Path, names: Names) -> Register:
    """Writes a COCO dict and its images, and registers it."""

    def write(content: dict[str, Any], **options: Any) -> str:
        name = f"report_test_{next(_NUMBERS)}"
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        for image in content["images"]:
            write_image(tmp_path / image["file_name"])
        register_coco_format(name, str(path), str(tmp_path), **options)
        names.append(name)
        return name

    return write


@pytest.fixture
def register_detail(tmp_path: Path, names: Names) -> Callable[[list[dict[str, Any]]], str]:
    """Registers dicts of PASCAL in Detail's kind; writes their images."""

    def register(records: list[dict[str, Any]]) -> str:
        name = f"report_test_{next(_NUMBERS)}"
        for record in records:
            record["file_name"] = str(tmp_path / record["file_name"])
            write_image(Path(record["file_name"]))
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(
            evaluator_type="pascal_in_detail", **pascal_in_detail_metadata(False)
        )
        names.append(name)
        return name

    return register


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    """A config for five joints and two semantic classes."""
    cfg = people_cfg(tmp_path / "output")
    cfg.TEST.REPORT = True
    return cfg
