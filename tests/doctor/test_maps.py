"""Planted faults of maps of class ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from doctor_support import check_planted, found, set_config


def config(tmp_path: Path, table: dict[int, int], **keys):
    """Maps whose values are replaced."""
    root = tmp_path / "train" / "maps"
    cfg = set_config(tmp_path, SEM_SEG_ROOT=str(root), **keys)
    for file in root.glob("*.png"):
        ids = np.array(Image.open(file))
        Image.fromarray(np.array([table.get(i, i) for i in range(256)], np.uint8)[ids]).save(file)
    return cfg


def test_maps_without_a_fault(tmp_path: Path) -> None:
    assert found(config(tmp_path, {})) == []
    assert found(config(tmp_path, {1: 255}, SEM_SEG_IDS={0: 0, 255: 1})) == []


@pytest.mark.parametrize("value", [255, 7, 128])
def test_other_values_than_ids(tmp_path: Path, value: int) -> None:
    finding = check_planted(config(tmp_path, {1: value}), "maps/ids", "error")
    assert f"SEM_SEG_IDS: {{0: 0, {value}: 1}}" in finding.mend


def test_more_values_than_classes(tmp_path: Path) -> None:
    cfg = config(tmp_path, {})
    file = tmp_path / "train" / "maps" / "3.png"
    ids = np.array(Image.open(file))
    ids[:4, :4] = 9
    Image.fromarray(ids).save(file)
    finding = check_planted(cfg, "maps/ids", "warning")
    assert finding.count == 1 and "3.png: found ids [9] in 16 pixels" in finding.examples[0]
    assert "SEM_SEG_IGNORE: [9]" in finding.mend


def test_a_table_of_ids_without_a_value(tmp_path: Path) -> None:
    cfg = config(tmp_path, {1: 7}, SEM_SEG_IDS={0: 0, 1: 1})
    assert "SEM_SEG_IGNORE: [7]" in check_planted_once(cfg).mend


def check_planted_once(cfg):
    (finding,) = found(cfg)
    assert (finding.check, finding.severity) == ("maps/ids", "error")
    return finding


def test_a_name_that_no_pixel_has(tmp_path: Path) -> None:
    cfg = config(tmp_path, {}, STUFF_CLASSES=["background", "person", "dog"])
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.DATASETS.TEST = 3, ()
    finding = check_planted(cfg, "maps/never-seen", "warning", is_mended=False)
    assert finding.examples == ["2 (dog)"]


def test_maps_of_another_size(tmp_path: Path) -> None:
    cfg = config(tmp_path, {})
    Image.new("L", (5, 5)).save(tmp_path / "train" / "maps" / "3.png")
    finding = check_planted(cfg, "maps/unusable", "warning", is_mended=False)
    assert "found 5x5, expected 64x96" in finding.examples[0]


def test_maps_in_jpeg_files(tmp_path: Path) -> None:
    cfg = config(tmp_path, {})
    for file in (tmp_path / "train" / "maps").glob("*.png"):
        image = Image.open(file).copy()
        image.save(file, format="JPEG")
    assert check_planted(cfg, "maps/unusable", "error", is_mended=False).count == 30
