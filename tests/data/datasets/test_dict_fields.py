import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.dict_fields import with_plain_fields
from d2_multitask.data.problems import ProblemReport


def _record(**fields):
    return {"file_name": "a.png", "annotations": [{"bbox": [0, 0, 1, 1], **fields}]}


@pytest.mark.parametrize(
    ("value", "expected", "is_counted"),
    [
        *((value, 0, True) for value in ("0", "false")),
        *((value, 1, True) for value in ("1", "True")),
        *((value, 0, False) for value in (False, 0.0, np.int64(0), np.bool_(False), None)),
        *((value, 1, False) for value in (True, 1.0, np.float32(1))),
        *((value, None, True) for value in ("NaN", [None], 2, float("nan"), "", np.inf)),
    ],
)
def test_crowd_flags(value, expected, is_counted):
    report = ProblemReport()
    (record,) = with_plain_fields([_record(iscrowd=value, category_id=0)], report)
    found = [annotation["iscrowd"] for annotation in record["annotations"]]
    assert found == ([] if expected is None else [expected])
    assert ("'iscrowd'" in report.summary()) == is_counted


@pytest.mark.parametrize("value", [1.0, np.int64(1), np.float32(1)])
def test_class_numbers(value):
    (record,) = with_plain_fields([_record(category_id=value)])
    assert type(record["annotations"][0]["category_id"]) is int


@pytest.mark.parametrize("value", [None, "1", 1.5, True, [1]])
def test_no_class_number_stays(value):
    (record,) = with_plain_fields([_record(category_id=value)])
    found = record["annotations"][0]["category_id"]
    assert found == value and type(found) is type(value)


TRIANGLE = [[0, 0, 100, 0, 0, 1]]  # 50 pixels in a box of 100 x 100
FULL = {"size": [100, 100], "counts": [0, 10000]}


@pytest.mark.parametrize(
    ("area", "segmentation", "expected"),
    [
        (1, None, 10_000),
        (1e9, None, 10_000),
        ("10000", None, 10_000),
        (1, FULL, 10_000),
        (1e9, TRIANGLE, 50),
        (48.5, TRIANGLE, 48.5),
        (7000, None, 7000),
        (300.5, None, 300.5),
    ],
)
def test_areas(area, segmentation, expected):
    report = ProblemReport()
    fields = {"bbox": [0, 0, 100, 100], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    if segmentation is not None:
        fields["segmentation"] = segmentation
    (record,) = with_plain_fields([_record(**fields, area=area)], report)
    assert record["annotations"][0]["area"] == expected
    assert ("'area'" in report.summary()) == (area != expected)


def test_every_data_set_is_read_so():
    DatasetCatalog.register("fields_set", lambda: [_record(iscrowd="0", category_id=0)])
    try:
        assert load_dataset("fields_set") == [_record(iscrowd=0, category_id=0)]
    finally:
        DatasetCatalog.remove("fields_set")


BOX, JOINTS = [4.0, 2.0, 12.0, 18.0], [8.5, 4.5, 2.0, 0.0, 0.0, 0.0]
POLYGON = [4.0, 2.0, 12.0, 2.0, 12.0, 18.0]
PLAIN = {"bbox": BOX, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
PLAIN |= {"keypoints": JOINTS, "segmentation": [POLYGON]}


@pytest.mark.parametrize(
    "change",
    [
        *({"bbox": form(BOX)} for form in (tuple, np.array, torch.tensor)),
        *({"bbox_mode": value} for value in (0, np.int64(0))),
        *({"keypoints": form(JOINTS)} for form in (tuple, np.array, torch.tensor)),
        *({"keypoints": form(JOINTS).reshape(2, 3)} for form in (np.array, torch.tensor)),
        *({"segmentation": [form(POLYGON)]} for form in (tuple, np.array, torch.tensor)),
        {"segmentation": [np.reshape(POLYGON, (3, 2))]},
        {"category_id": torch.tensor(0), "iscrowd": torch.tensor(False)},
    ],
)
def test_the_same_in_other_types(change):
    report = ProblemReport()
    (record,) = with_plain_fields([_record(**{**PLAIN, **change})], report)
    assert record["annotations"] == [PLAIN] and not report.counts


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        *(("bbox", value, None) for value in ([1, 2, np.nan, 4], [5, 5, 1, 1], ["1", 2, 3, 4], 7)),
        *(("keypoints", value, {}) for value in (["8", 4, 2], [1, 2], "none", 5)),
        ("keypoints", [np.nan, 1, 2, 8.5, 4.5, 2], {"keypoints": [0, 0, 0, 8.5, 4.5, 2]}),
        ("keypoints", [1, 1, 7], {"keypoints": [0, 0, 0]}),
        *(("segmentation", value, {}) for value in (np.zeros((9, 9)), "mask", False)),
    ],
)
def test_what_cannot_be_used_is_told(field, value, kept):
    report = ProblemReport()
    (record,) = with_plain_fields([_record(**{**PLAIN, field: value})], report)
    rest = {key: value for key, value in PLAIN.items() if key != field}
    assert record["annotations"] == ([] if kept is None else [{**rest, **kept}])
    assert f"field '{field}': found" in report.summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": "none"}, "a.png: field 'annotations': found 'none'"),
        ({"annotations": [3]}, "'annotations'"),
        (
            {"annotations": [{**PLAIN, "bbox_mode": "XYXY"}]},
            "object 1: .*'bbox_mode': found 'XY",
        ),
        ({"file_name": 3}, "'own': entry 0: field 'file_name': found 3"),
        ({"image_id": [3]}, r"'image_id': found \[3\]"),
        ({"height": "tall"}, "'height': found 'tall'"),
    ],
)
def test_sentences(change, message):
    with pytest.raises(ValueError, match=message):
        with_plain_fields([{**_record(**PLAIN), **change}], name="own")
