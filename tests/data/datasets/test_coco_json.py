from __future__ import annotations

import gc

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_multitask.data.datasets import coco_annotations as coco_objects
from d2_multitask.data.datasets import coco_json
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.datasets.coco_json import read_json
from d2_multitask.data.problems import DATA_REPORT


@pytest.fixture
def load(tmp_path, write_coco):
    def load(content):
        register_coco_format("own", str(write_coco(content)), str(tmp_path / "images"))
        return DatasetCatalog.get("own")

    return load


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"a": ' + "[" * 100_000, "nested too deep", id="deep"),
        pytest.param('{"a": ' + "9" * 1_000_000 + "}", "broken JSON.*digits", id="long integer"),
        pytest.param('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' twice", id="key twice"),
    ],
)
def test_broken_files_are_a_sentence(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json: .*{message}"):
        read_json(str(path))


def test_no_garbage_is_looked_for_while_a_file_is_read(tmp_path):
    """It took a third of the time of a large file."""
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    enabled = []
    read_json(str(path), object_hook=lambda entry: enabled.append(gc.isenabled()) or entry)
    assert enabled == [False] and gc.isenabled()
    path.write_text("{")
    with pytest.raises(ValueError, match="broken JSON"):
        read_json(str(path))
    assert gc.isenabled()


def test_a_byte_order_mark_and_equal_copies_are_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1, "a": 1}', encoding="utf-8-sig")
    assert read_json(str(path), object_hook=lambda entry: entry | {"b": 2}) == {"a": 1, "b": 2}


@pytest.mark.parametrize("field", ["id", "height", "width"])
@pytest.mark.parametrize("value", [10**60, True, [1], float("nan")])
def test_images_of_other_values(load, coco, field, value):
    coco["images"][0][field] = value
    with pytest.raises(ValueError, match=rf"images\[0\].*field '{field}': found"):
        load(coco)


def test_an_image_of_too_many_pixels(load, coco):
    coco["images"][0] |= {"height": 10**6, "width": 10**6}
    with pytest.raises(ValueError, match="'height', 'width': found 1000000 x 1000000"):
        load(coco)


def test_ids_as_floats_are_integers_everywhere(load, coco):
    expected = load(coco)
    DatasetCatalog.remove("own")
    for image in coco["images"]:
        image["id"] = float(image["id"])
    for annotation in coco["annotations"]:
        annotation |= {key: float(annotation[key]) for key in ("id", "image_id", "category_id")}
    coco["categories"][0]["id"] = 7.0
    assert repr(load(coco)) == repr(expected)  # also the types
    assert DATA_REPORT.counts == {}


def test_a_skeleton_that_is_a_number(load, coco):
    coco["categories"][0]["skeleton"] = 5
    load(coco)
    assert DATA_REPORT.counts == {coco_json.SKELETON_PROBLEM: 1}


@pytest.mark.parametrize(
    "counts",
    [
        [10**60, 1],
        [2**63 - 1, 2**63 - 1, 2 + 24 * 32],
        [-(10**60), 4],
        "\ud800",
    ],
)
def test_run_lengths_that_wrap(load, coco, counts):
    coco["annotations"][1]["segmentation"]["counts"] = counts
    first, _ = load(coco)
    assert "segmentation" not in first["annotations"][1]
    assert DATA_REPORT.counts == {coco_objects.BAD_MASK: 1}


def test_metadata_may_name_another_evaluator():
    register_coco_format("own", "a.json", ".", metadata={"evaluator_type": "mine"})
    assert MetadataCatalog.get("own").evaluator_type == "mine"
