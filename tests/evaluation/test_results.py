from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

from d2_multitask.evaluation.results import format_results, to_plain, write_results

ONE = {
    "bbox": {"AP": np.float64(51.5), "AP50": 90.25, "APs": math.nan},
    "sem_seg": {"mIoU": 80.0, "IoU-person": 73.0, "ACC-person": 88.0},
}


def test_numbers_become_python_floats_and_nan_becomes_none():
    plain = to_plain({"bbox": {"AP": np.float32(0.5), "AP50": np.nan, "AP75": -np.inf, "n": 3}})
    assert plain == {"bbox": {"AP": 0.5, "AP50": None, "AP75": None, "n": 3.0}}
    assert type(plain["bbox"]["AP"]) is float


def test_file_is_strict_json(tmp_path):
    path = write_results(ONE, str(tmp_path / "new" / "folder"))
    text = open(path).read()
    assert "NaN" not in text
    assert json.loads(text) == {
        "bbox": {"AP": 51.5, "AP50": 90.25, "APs": None},
        "sem_seg": {"mIoU": 80.0, "IoU-person": 73.0, "ACC-person": 88.0},
    }
    assert path == str(tmp_path / "new" / "folder" / "results.json")


def test_failure_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = write_results(ONE, str(tmp_path))

    def fail(source, target):
        raise OSError("disk is gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is gone"):
        write_results({"bbox": {"AP": 0.0}}, str(tmp_path))
    assert json.load(open(path))["bbox"]["AP"] == 51.5


def test_table_of_one_data_set():
    header, _, *rows = format_results(ONE).splitlines()
    assert header == "| task    | metric     |   value |"
    assert rows == [
        "| bbox    | AP         |   51.50 |",
        "| bbox    | AP50       |   90.25 |",
        "| sem_seg | mIoU       |   80.00 |",
        "| sem_seg | IoU-person |   73.00 |",
    ]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        pytest.param({"val": ONE, "more": {}}, "| val / bbox    | AP ", id="two data sets"),
        pytest.param({"parts": {"PQ": 3.0}}, "| parts  | PQ       |    3.00 |", id="other metric"),
        pytest.param({"bbox": {"AP": math.nan}}, "n/a", id="NaN"),
        pytest.param({}, "task", id="nothing"),
    ],
)
def test_table(results, expected):
    assert expected in format_results(results)
