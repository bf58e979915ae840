from __future__ import annotations

import pytest

from d2_multitask.data.datasets import coco_annotations as coco_objects
from d2_multitask.data.datasets.coco_annotations import (
    as_category_id,
    as_file_name,
    as_flag,
    as_id,
    as_integer,
    as_number,
    other_form,
    shown,
)
from d2_multitask.data.problems import DATA_REPORT

NAN = float("nan")


@pytest.mark.parametrize("value", [0, False, 0.0, "0", "false", "False", None])
def test_flags_that_are_off(value):
    assert as_flag(value) is False


@pytest.mark.parametrize("value", [1, True, 1.0, "1", "true"])
def test_flags_that_are_on(value):
    assert as_flag(value) is True


@pytest.mark.parametrize("value", [2, -1, 0.5, NAN, "NaN", "", "yes", [None], {}, 10**400])
def test_anything_else_is_no_flag(value):
    assert as_flag(value) is None


@pytest.mark.parametrize("value", [True, "5", None, [5], NAN, float("inf"), 10**400])
def test_what_is_no_number(value):
    assert as_number(value) is None and as_integer(value) is None


@pytest.mark.parametrize("value", ["", ".", "a/", "a\0.png", "\ud800.png", 5, None])
def test_what_names_no_file(value):
    assert as_file_name(value) is None


def test_integers_may_be_written_as_floats():
    assert (as_integer(7.0), as_integer(7.5), as_integer(10**60)) == (7, None, None)
    assert (as_id("a"), as_id(7.0), as_id(True)) == ("a", 7, None)
    assert len(shown("x" * 1000)) < 100


@pytest.mark.parametrize(
    ("field", "value", "crowd", "kinds"),
    [
        ("iscrowd", "0", 0, {coco_objects.FLAG_AS_TEXT: 1}),
        ("iscrowd", "false", 0, {coco_objects.FLAG_AS_TEXT: 1}),
        ("ignore", "true", 1, {coco_objects.FLAG_AS_TEXT: 1}),
        ("iscrowd", 1.0, 1, {}),
        ("iscrowd", "NaN", None, {coco_objects.BAD_FLAG: 1}),
        ("iscrowd", NAN, None, {coco_objects.BAD_FLAG: 1}),
        ("ignore", [None], None, {coco_objects.BAD_FLAG: 1}),
    ],
)
def test_a_flag_of_an_object(field, value, crowd, kinds):
    reader = coco_objects.ObjectReader({7: 0}, 0)
    given = {"bbox": [1, 1, 4, 4], "category_id": 7.0, field: value}
    label = reader.read(given, 24, 32, "a.json: annotations[0] (id 11)")
    assert (label and label["iscrowd"]) == crowd
    DATA_REPORT.extend(reader.problems)
    assert DATA_REPORT.counts == kinds
    assert not kinds or f"(id 11): field '{field}'" in DATA_REPORT.summary()


@pytest.mark.parametrize("value", ["5", True])
def test_text_and_truth_are_no_joints(value):
    reader = coco_objects.ObjectReader({7: 0}, 1)
    given = {"bbox": [1, 1, 4, 4], "category_id": 7, "keypoints": [value, 3, 2]}
    assert "keypoints" not in reader.read(given, 24, 32, "")
    assert [problem.kind for problem in reader.problems] == [coco_objects.BAD_KEYPOINTS]


def test_nested_joints_are_read():
    reader = coco_objects.ObjectReader({7: 0}, 2)
    given = {"bbox": [1, 1, 4, 4], "category_id": 7, "keypoints": [[2, 3, 2], [4, 5, 1]]}
    assert reader.read(given, 24, 32, "")["keypoints"] == [2.5, 3.5, 2, 4.5, 5.5, 1]
    assert not reader.problems


MASK = [[4, 2, 12, 2, 4, 6]]  # a triangle: 16 of its box's 128 pixels


@pytest.mark.parametrize(
    ("area", "mask", "expected", "replaced"),
    [
        pytest.param(16, MASK, 16, False, id="the mask's"),
        pytest.param(128, MASK, 128, False, id="the box's, as tools write it"),
        pytest.param(8, None, 8, False, id="a thin object whose mask is not in the file"),
        pytest.param(1, MASK, 16, True, id="far below the mask"),
        pytest.param(1, None, 128, True, id="far below the box"),
        pytest.param(1e6, MASK, 16, True, id="above the image"),
        pytest.param(1e6, None, 128, True, id="above the image, box only"),
        pytest.param("16", MASK, 16, True, id="text"),
        pytest.param(NAN, None, 128, True, id="NaN"),
        pytest.param(0, None, 128, True, id="zero"),
        pytest.param(None, MASK, 128, False, id="missing"),
    ],
)
def test_area_is_compared_with_mask_and_box(area, mask, expected, replaced):
    reader = coco_objects.ObjectReader({7: 0}, 0)
    given = {"bbox": [4, 2, 8, 16], "category_id": 7, "area": area, "segmentation": mask}
    assert reader.read(given, 24, 32, "")["area"] == expected
    kinds = [problem.kind for problem in reader.problems]
    assert kinds == [coco_objects.AREA_REPLACED] * replaced


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), (3.0, 3), ("3", 3), ("-3", -3), ("03", None), ("3.0", None), ("", None), (True, None)],
)
def test_category_ids(value, expected):
    assert as_category_id(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(3, "3"), ("3", 3), ("03", None), (None, None)])
def test_the_other_form_of_an_id(value, expected):
    assert other_form(value) == expected


def test_a_name_may_have_folders_and_any_letters():
    assert as_file_name("a/\u00fc.png") == "a/\u00fc.png"
