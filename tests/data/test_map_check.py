"""Maps that teach nothing, or the wrong thing, are found before training."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from d2_multitask.data.map_check import check_maps

KEYS = {
    "seg": "sem_seg_file_name",
    "parts": "part_seg_file_name",
    "boundary": "boundary_file_name",
}


def _records(tmp_path, maps, key="sem_seg_file_name", **fields):
    records = []
    for index, values in enumerate(maps):
        image, label_map = (tmp_path / f"{kind}{index}.png" for kind in ("image", "map"))
        Image.new("RGB", (3, 1)).save(image)
        Image.fromarray(np.array(values, dtype=np.uint8)).save(label_map)
        records.append({"file_name": str(image), key: str(label_map), **fields})
    return records


@pytest.mark.parametrize("task", KEYS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param([[[0, 0, 0], [1, 1, 1], [1, 1, 1]]], "image of mode RGB", id="colours"),
        pytest.param([[0, 1]], "2x1", id="size"),
        pytest.param([[255, 255, 255]], "255, no label", id="nothing labelled"),
    ],
)
def test_no_map_can_be_used(cfg, tmp_path, task, values, message):
    cfg.MODEL.TASKS = [task]
    records = _records(tmp_path, [values, values], KEYS[task])
    with pytest.raises(ValueError, match=f"(?s)'own': task '{task}': none of its .*{message}"):
        check_maps(cfg, "own", records)
    cfg.MODEL.TASKS = ["det"]
    check_maps(cfg, "own", records)


def test_one_good_map_is_enough(cfg, tmp_path, caplog):
    cfg.MODEL.TASKS = ["seg"]
    check_maps(cfg, "own", _records(tmp_path, [[[0, 1]], [[0, 255, 1]], [[0, 255, 255]]]))
    assert "expected several" not in caplog.text


@pytest.mark.parametrize("hidden", [255, 128])
def test_values_that_are_no_ids_are_named(cfg, tmp_path, hidden):
    cfg.MODEL.TASKS = ["seg"]
    records = _records(tmp_path, [[[0, 0, hidden]], [[0, 0, 0]]])
    found = rf"\{{0: 5, {hidden}: 1\}}.* SEM_SEG_IDS .*\{{0: 0, {hidden}: 1\}}.*SEM_SEG_IGNORE"
    with pytest.raises(ValueError, match=found):
        check_maps(cfg, "own", records)
    check_maps(cfg, "own", _records(tmp_path, [[[0, 0, 255]]], sem_seg_ids={0: 0, 255: 1}))


def test_boundaries_of_255(cfg, tmp_path):
    cfg.MODEL.TASKS = ["boundary"]
    with pytest.raises(ValueError, match=r"'boundary'.*save them as class ids"):
        check_maps(cfg, "own", _records(tmp_path, [[[0, 0, 255]]], KEYS["boundary"]))


@pytest.mark.parametrize(
    ("maps", "fields"),
    [
        pytest.param([[[0, 0, 0]]] * 2, {}, id="background alone"),
        pytest.param([[[0, 0, 255]]], {"sem_seg_ignore": (255,)}, id="said to be ignored"),
        pytest.param([[[0, 0, 255]]] + [[[0, 0, 0]]] * 2, {}, id="few ignored"),
    ],
)
def test_one_class_is_a_warning(cfg, tmp_path, caplog, maps, fields):
    cfg.MODEL.TASKS = ["seg"]
    with caplog.at_level(logging.WARNING):
        check_maps(cfg, "own", _records(tmp_path, maps, **fields))
    assert "show class 0 only" in caplog.text
