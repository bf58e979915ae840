from __future__ import annotations

import pytest

from studies.tasks.columns import choose_columns, flat_results, named_columns

SEG = {"sem_seg": {"mIoU": 1.0, "IoU-person": 2.0}}
DET = {"bbox": {"AP": 3.0, "AP50": None, "APs": 4.0}}


def labels(columns):
    return [column.label for column in columns]


def test_flat_results_of_one_and_of_several_data_sets():
    assert flat_results(DET) == {
        ("", "bbox", "AP"): 3.0,
        ("", "bbox", "AP50"): None,
        ("", "bbox", "APs"): 4.0,
    }
    assert flat_results({"a": SEG})["a", "sem_seg", "IoU-person"] == 2.0


def test_table_1_for_its_tasks_before_anything_has_run():
    assert labels(choose_columns([["seg"], ["det", "pose"]], [])) == [
        "person IoU",
        "box AP",
        "box AP50",
        "keypoint AP",
        "keypoint AP50",
    ]
    assert labels(choose_columns([["det"]], [])) == ["box AP", "box AP50"]


def test_other_classes_have_their_mean():
    results = flat_results({"sem_seg": {"mIoU": 1.0, "fwIoU": 2.0, "IoU-sky": 3.0}})
    assert labels(choose_columns([["seg"]], [results])) == ["mIoU"]


def test_what_else_was_measured_gets_columns():
    results = flat_results(
        {
            "segm": {"AP": 1.0, "AP50": 2.0, "APs": 3.0},
            "parts": {"mIoU": 1.0, "IoU-arm": 2.0},
            "boundary": {"ODS": 1.0, "OIS": 2.0},
        }
    )
    assert labels(choose_columns([["det"]], [results])) == [
        "box AP",
        "box AP50",
        "mask AP",
        "mask AP50",
        "parts mIoU",
        "boundary ODS",
    ]


def test_several_data_sets_have_columns_each():
    columns = choose_columns([["seg"]], [flat_results({"a": SEG, "b": {**SEG, **DET}})])
    assert labels(columns)[:2] == ["a: person IoU", "b: person IoU"]
    assert columns[0].key == ("a", "sem_seg", "IoU-person")
    assert columns[0].task == "seg"


def test_named_columns():
    columns = named_columns(["bbox/AP", "val/parts/mIoU"])
    assert [(c.name, c.label, c.task) for c in columns] == [
        ("bbox/AP", "box AP", "det"),
        ("val/parts/mIoU", "val: parts mIoU", ""),
    ]


@pytest.mark.parametrize("name", ["AP", "bbox/", "a/b/c/d"])
def test_column_of_no_such_form(name):
    with pytest.raises(ValueError, match="--metrics: found"):
        named_columns([name])


def test_eight_kinds_of_labels():
    """One class of many is not what a network is judged by, and its mean is there."""
    results = {
        "bbox": {"AP": 1.0, "AP50": 2.0, "AP-dog": 3.0},
        "segm": {"AP": 1.0, "AP50": 2.0},
        "keypoints": {"AP": 1.0, "AP50": 2.0},
        "sem_seg": {"mIoU": 1.0, "mIoU-60": 0.5, "IoU-person": 2.0, "IoU-sky": 3.0, "IoU-dog": 4.0},
        "part_seg": {"mIoU": 1.0},
        "boundary": {"ODS-F": 1.0, "AP": 2.0},
        "occlusion": {"orientation-accuracy": 1.0, "orientation-accuracy-at-labels": 2.0},
        "image_labels": {"mAP": 1.0, "AP-dog": 3.0},
    }
    found = labels(choose_columns([["det", "mask", "pose", "seg"]], [flat_results(results)]))
    assert {"person IoU", "mIoU"} & set(found) == {"mIoU"}
    assert {"box AP", "mask AP", "keypoint AP", "parts mIoU", "boundary ODS", "class mAP"} < set(
        found
    )
    assert {"orientation", "orientation at labels"} < set(found)
    (column,) = named_columns(["occlusion/orientation-accuracy-at-labels"])
    assert column.task == "occlusion"
