"""Masks as people store them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from d2_multitask.evaluation.segments import mask_files, read_object_mask


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return path


@pytest.mark.parametrize("values", [[[0, 1]], [[0, 255]], [[100, 200]]])
def test_levels(tmp_path, values):
    assert read_object_mask(save(tmp_path / "m.png", values)).tolist() == [[False, True]]


def test_size(tmp_path):
    path = save(tmp_path / "m.png", [[0, 255]])
    assert read_object_mask(path, (2, 4)).tolist() == [[False, False, True, True]] * 2


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
