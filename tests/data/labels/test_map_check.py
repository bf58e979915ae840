"""Maps that teach nothing, or the wrong thing, are found before training."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.heads.build import task_labels

KEYS = {
    "seg": "sem_seg_file_name",
    "parts": "part_seg_file_name",
    "boundary": "boundary_file_name",
    "foreground": "foreground_file_name",
}

WORDS = {
    "seg": "semantic maps",
    "parts": "human parts",
    "boundary": "boundary maps",
    "foreground": "foreground masks",
}


def check_maps(cfg, name, records):
    for label in task_labels(cfg):
        label.check(name, records)


def check_map_names(cfg, name, records):
    for label in task_labels(cfg):
        label.check_classes(name, records)


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
        pytest.param([[[0, 0, 0], [1, 1, 1], [1, 2, 1]]], "image of mode RGB", id="colours"),
        pytest.param([[0, 1]], "2x1", id="size"),
    ],
)
def test_no_map_can_be_used(cfg, tmp_path, task, values, message):
    cfg.MODEL.TASKS = [task]
    records = _records(tmp_path, [values, values], KEYS[task])
    with pytest.raises(ValueError, match=f"(?s)'own': {WORDS[task]}: none of its .*{message}"):
        check_maps(cfg, "own", records)
    cfg.MODEL.TASKS = ["det"]
    check_maps(cfg, "own", records)


@pytest.mark.parametrize("task", ["seg", "parts", "boundary"])
def test_no_map_has_a_label(cfg, tmp_path, task):
    cfg.MODEL.TASKS = [task]
    with pytest.raises(ValueError, match="(?s)none of its .*255, no label"):
        check_maps(cfg, "own", _records(tmp_path, [[[255, 255, 255]]] * 2, KEYS[task]))


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


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        pytest.param([[[0, 0, 0]]] * 3, "show class 0 only", id="nothing is there"),
        pytest.param([[[255, 255, 255]]] * 3, "show class 1 only", id="all of it"),
        pytest.param([[[0, 0, 0]], [[0, 255, 255]]], "", id="one with both"),
    ],
)
def test_foreground_masks_of_one_class_are_a_warning(cfg, tmp_path, caplog, maps, message):
    """As 0 and 1 in JPEG files, which rounds them to 0, or masks with the alpha channel lost."""
    cfg.MODEL.TASKS = ["foreground"]
    with caplog.at_level(logging.WARNING):
        check_maps(cfg, "own", _records(tmp_path, maps, "foreground_file_name"))
    assert message in caplog.text and bool(caplog.text) == bool(message)


@pytest.mark.parametrize("ignore_value", [254, 0])
def test_one_value_is_ignored_by_network_and_metric(cfg, tmp_path, ignore_value):
    cfg.MODEL.TASKS, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = ["seg"], ignore_value
    records = _records(tmp_path, [[[1, 2, ignore_value]]])
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    check_maps(cfg, "own", records)
    try:
        MetadataCatalog.get("own").set(ignore_label=255)
        found = rf"'own': metadata 'ignore_label': found 255, but .* is {ignore_value}"
        with pytest.raises(ValueError, match=found):
            check_maps(cfg, "own", records)
    finally:
        MetadataCatalog.remove("own")


@pytest.mark.parametrize(("num_classes", "ignore_value"), [(300, 255), (20, -1), (20, 65535)])
def test_ids_beyond_8_bits(cfg, tmp_path, num_classes, ignore_value):
    """They would come out as others: 256 as 0."""
    cfg.MODEL.TASKS = ["seg"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = ignore_value
    found = f"NUM_CLASSES {num_classes} and IGNORE_VALUE {ignore_value}"
    with pytest.raises(ValueError, match=found):
        check_maps(cfg, "own", _records(tmp_path, [[[0, 1, 2]]]))


def test_boundaries_of_255(cfg, tmp_path):
    cfg.MODEL.TASKS = ["boundary"]
    with pytest.raises(ValueError, match=r"boundary maps.*BOUNDARY_IDS .*0: 0, 255: 1"):
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


@pytest.mark.parametrize(
    ("names", "ids", "is_error"),
    [
        pytest.param(None, [0, 1, 2], True, id="names of the JSON"),
        pytest.param(["a", "b", "c"], [0, 7, 2], True, id="other ids than names"),
        pytest.param(["a", "b", "c"], [0, 1, 2], False, id="the network is another"),
        pytest.param(["a", "b"], [0, 7, 2], False, id="as many as in the network"),
    ],
)
def test_number_of_classes_is_advised_only_if_ids_are_names(
    cfg, coco, write_coco, tmp_path, names, ids, is_error
):
    cfg.MODEL.TASKS, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = ["seg"], 2
    coco["categories"].append({"id": 9, "name": "dog"})
    for name in ("a.png", "b.png"):
        (tmp_path / "maps").mkdir(exist_ok=True)
        Image.fromarray(np.array([ids], dtype=np.uint8)).save(tmp_path / "maps" / name)
    register_coco_format(
        "named",
        write_coco(coco),
        tmp_path / "images",
        sem_seg_root=tmp_path / "maps",
        stuff_classes=names,
    )
    records = DatasetCatalog.get("named")
    assert len(MetadataCatalog.get("named").stuff_classes) == len(names or "abc")
    if not is_error:
        number = r"stuff_classes: found 3, .*NUM_CLASSES to 3"
        is_same = len(names) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        with nullcontext() if is_same else pytest.raises(ValueError, match=number):
            check_map_names(cfg, "named", records)
        return
    with pytest.raises(ValueError, match="set STUFF_CLASSES .* names of the ids") as error:
        check_map_names(cfg, "named", records)
    assert str(sorted(ids)) in str(error.value) and "NUM_CLASSES to 3" not in str(error.value)
