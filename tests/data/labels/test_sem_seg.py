from __future__ import annotations

import re

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image

from d2_multitask.data.labels.base import BAD_MAP, UNKNOWN_IDS
from d2_multitask.data.labels.sem_seg import (
    MASK_NOT_DECODED,
    SemSegLabel,
    sem_seg_from_annotations,
)
from d2_multitask.data.problems import DATA_REPORT

H, W = 4, 6


def _object(x1, y1, x2, y2, category=0, crowd=0, mask=True):
    annotation = {
        "bbox": [x1, y1, x2, y2],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": category,
        "iscrowd": crowd,
    }
    if mask:
        annotation["segmentation"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return annotation


@pytest.mark.parametrize(
    ("annotations", "rows"),
    [
        pytest.param([], ["......"] * 4, id="nothing is background"),
        pytest.param([_object(1, 0, 3, 2)], [".11...", ".11...", "......", "......"], id="one"),
        pytest.param(
            [_object(0, 0, 2, 2), _object(1, 1, 4, 3)],
            ["11....", "1111..", ".111..", "......"],
            id="two of a class",
        ),
        pytest.param(
            [_object(2, 1, 3, 2, category=1), _object(0, 0, 6, 3)],
            ["111111", "112111", "111111", "......"],
            id="the smaller one wins",
        ),
        pytest.param(
            [_object(0, 0, 2, 4), _object(1, 0, 4, 2, crowd=1)],
            ["11##..", "11##..", "11....", "11...."],
            id="crowd is ignored where nobody is known",
        ),
        pytest.param(
            [_object(1.5, 0.5, 3.5, 1.5, mask=False), _object(0, 0, 2, 1)],
            ["11##..", ".###..", "......", "......"],
            id="a box without mask is ignored, every pixel that it touches",
        ),
        pytest.param(
            [_object(3, 1, 9, 3, mask=False)],
            ["......", "...###", "...###", "......"],
            id="box that leaves the image",
        ),
    ],
)
def test_from_annotations(annotations, rows):
    expected = [[255 if c == "#" else 0 if c == "." else int(c) for c in row] for row in rows]
    sem_seg = sem_seg_from_annotations(annotations, H, W)
    assert sem_seg.dtype == np.uint8 and sem_seg.flags.c_contiguous
    np.testing.assert_array_equal(sem_seg, expected)


def test_undecodable_mask_ignores_the_box_and_is_counted():
    broken = _object(0, 0, 2, 1) | {"segmentation": {"size": [W, H], "counts": [0, 24]}}
    sem_seg = sem_seg_from_annotations([broken], H, W, where="a.png")
    assert (sem_seg == 255).sum() == 2
    assert DATA_REPORT.counts == {MASK_NOT_DECODED: 1}
    assert "a.png: object 0" in DATA_REPORT.summary()


def test_too_many_categories():
    with pytest.raises(ValueError, match=r"category_id: found 254, expected 0 to 253"):
        sem_seg_from_annotations([_object(0, 0, 2, 1, category=254)], H, W)


def _save(tmp_path, ids, dtype=np.uint8):
    Image.fromarray(np.array(ids, dtype)).save(tmp_path / "map.png")
    return str(tmp_path / "map.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_unknown_ids_are_ignored_and_counted(tmp_path, dtype):
    path = _save(tmp_path, [[0, 1, 2], [255, 9, 9]], dtype)
    sem_seg = SemSegLabel(2).read({"sem_seg_file_name": path, "height": 2, "width": 3})
    np.testing.assert_array_equal(sem_seg, [[0, 1, 255], [255, 255, 255]])
    assert DATA_REPORT.counts == {UNKNOWN_IDS.format("semantic maps"): 1}
    assert "found ids [2, 9] in 3 pixels, expected 0..1 or 255" in DATA_REPORT.summary()
    assert "such as {0: 0, 2: 1, 9: 2}; if they mean no label, SEM_SEG_IGNORE, such as [2, 9]" in (
        DATA_REPORT.summary()
    )


@pytest.mark.parametrize(
    ("ids", "ignore", "expected", "unknown"),
    [
        pytest.param({0: 0, 255: 1}, None, [0, 255, 255, 1], [64, 1000], id="0 and 255"),
        pytest.param({0: 1, 64: 0}, None, [1, 0, 255, 255], [1000], id="255 stays ignored"),
        pytest.param({64: 0, 1000: 1}, [0, 255], [255, 0, 1, 255], [], id="16 bit"),
        pytest.param(None, 64, [0, 255, 255, 255], [255, 1000], id="another value is ignored"),
    ],
)
def test_values_of_the_file_are_translated(tmp_path, ids, ignore, expected, unknown):
    path = _save(tmp_path, [[0, 64, 1000, 255]], np.uint16)
    record = {"sem_seg_file_name": path, "sem_seg_ids": ids, "sem_seg_ignore": ignore}
    sem_seg = SemSegLabel(2).read({**record, "height": 1, "width": 4})
    assert sem_seg.tolist() == [expected] and sem_seg.dtype == np.uint8
    assert not unknown or f"found ids {unknown}" in DATA_REPORT.summary()
    assert bool(unknown) == bool(DATA_REPORT.counts)


def test_map_of_another_size(tmp_path):
    record = {"sem_seg_file_name": _save(tmp_path, [[0, 1, 2], [0, 0, 0]])}
    assert SemSegLabel(3).read({**record, "height": 2, "width": 4}) is None
    assert re.search(r"map\.png: found 3x2, expected 4x2", DATA_REPORT.summary())


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param({}, None, id="unlabelled"),
        pytest.param({"annotations": []}, None, id="objects only"),
        pytest.param({"sem_seg_from_annotations": True}, None, id="no objects to derive it from"),
        pytest.param(
            {"sem_seg_from_annotations": True, "annotations": [_object(0, 0, 6, 4)]},
            24,
            id="derived",
        ),
        pytest.param({"sem_seg_file_name": "map.png"}, 1, id="from a file"),
        pytest.param(
            {
                "sem_seg_file_name": "map.png",
                "sem_seg_from_annotations": True,
                "annotations": [_object(0, 0, 6, 4)],
            },
            1,
            id="the file wins",
        ),
    ],
)
def test_load(tmp_path, record, expected):
    ids = np.zeros((H, W), int)
    ids[0, 0] = 1
    path = _save(tmp_path, ids)
    if "sem_seg_file_name" in record:
        record = record | {"sem_seg_file_name": path}
    sem_seg = SemSegLabel(2).read({**record, "height": H, "width": W})
    assert sem_seg is None if expected is None else (sem_seg == 1).sum() == expected


def test_a_bad_map_costs_the_map_only_and_is_counted(tmp_path):
    record = {"sem_seg_file_name": str(tmp_path / "missing.png")}
    assert SemSegLabel(2).read({**record, "height": H, "width": W}) is None
    assert DATA_REPORT.counts == {BAD_MAP.format("semantic maps"): 1}


def test_more_objects_than_a_byte_counts():
    square = [[0, 0, 4, 0, 4, 4, 0, 4]]
    dot = [[1, 1, 2, 1, 2, 2, 1, 2]]
    objects = [{"category_id": 0, "segmentation": square}] * 299
    objects.append({"category_id": 1, "segmentation": dot})
    expected = np.ones((4, 4), dtype=np.uint8)
    expected[1, 1] = 2
    np.testing.assert_array_equal(sem_seg_from_annotations(objects, 4, 4), expected)
