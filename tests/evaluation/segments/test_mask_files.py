"""Masks as people store them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from d2_multitask.data.io import ImageReadError
from d2_multitask.evaluation.segments import mask_files, read_object_mask


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return path


@pytest.mark.parametrize("values", [[[0, 1]], [[0, 255]], [[100, 200]]])
def test_levels(tmp_path, values):
    assert read_object_mask(save(tmp_path / "m.png", values)).tolist() == [[False, True]]


def test_kinds_of_files(tmp_path):
    Image.fromarray(np.array([[0, 1]], np.uint16)).save(tmp_path / "deep.png")
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8), "LA").save(tmp_path / "alpha.png")
    for name in ("deep", "palette", "alpha"):
        assert read_object_mask(tmp_path / f"{name}.png").tolist() == [[False, True]], name


@pytest.mark.parametrize("values", [[[0, 2]], [[0, 1, 2, 3]], [[0, 15, 15, 255]]])
def test_numbers_of_classes_are_refused(tmp_path, values):
    with pytest.raises(ImageReadError, match="m.png: found the numbers .* expected 0 and 1"):
        read_object_mask(save(tmp_path / "m.png", values))


def test_size(tmp_path):
    path = save(tmp_path / "m.png", [[0, 255]])
    assert read_object_mask(path, (1, 2)).tolist() == [[False, True]]
    with pytest.raises(ImageReadError, match="found a mask of 2x1, expected 4x2 as the image"):
        read_object_mask(path, (2, 4))


def test_files_are_found_by_name(tmp_path):
    save(tmp_path / "a.png", [[0]])
    save(tmp_path / "birds" / "1.png", [[0]])
    found = mask_files(tmp_path, ["birds/1.jpg", "a.png"])
    assert [path.name for path in found.values()] == ["1.png", "a.png"]


def test_what_is_missing_is_named(tmp_path):
    save(tmp_path / "a.png", [[0]])
    with pytest.raises(ValueError, match=r"no mask for 2 of 3 images \(such as b.jpg, c.jpg\)"):
        mask_files(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(ValueError, match="found no folder"):
        mask_files(tmp_path / "absent", [])
