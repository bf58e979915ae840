"""Registers small data sets for one test, and a config that fits them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.problems import DATA_REPORT
from evaluation_support import Register, people_cfg

_NUMBERS = itertools.count()


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    """Writes a COCO dict to a file and registers it; registered names are removed afterwards."""
    names = []

    def write(content: dict[str, Any], **options: Any) -> str:
        name = f"evaluation_test_{next(_NUMBERS)}"
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        register_coco_format(name, str(path), str(tmp_path), **options)
        names.append(name)
        return name

    yield write
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DATA_REPORT.clear()


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    """A config for the data set's five joints and two semantic classes."""
    return people_cfg(tmp_path / "output")
