"""datasets/prepare_disjoint_labels.py: a third of the images for each task."""

from __future__ import annotations

import functools
import json
import operator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

import prepare_disjoint_labels as tool
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.datasets.coco_annotations import BAD_MASK, FLAG_AS_TEXT
from d2_multitask.data.problems import DATA_REPORT
from engine_support import write_people


def test_each_image_keeps_the_labels_of_one_task(tmp_path: Path) -> None:
    source = write_people(tmp_path / "images", num_images=7)
    assert tool.main(["--json", str(source), "--output", str(tmp_path / "thirds")]) == 0
    fields, ids = {}, {}
    for task in tool.PARTS:
        json_file = tmp_path / "thirds" / f"{task}.json"
        ids[task] = [image["id"] for image in json.loads(json_file.read_text())["images"]]
        name = f"disjoint_{task}"
        register_coco_format(name, json_file, tmp_path / "images")
        record = DatasetCatalog.get(name)[0]
        fields[task] = [sorted(x) for x in record.get("annotations", ["none"])]
        DatasetCatalog.remove(name)
    maps = sorted((tmp_path / "thirds" / "sem_seg").rglob("*.png"))
    assert len(maps) == 2
    assert ids == {"seg": [3, 6], "det": [1, 4, 7], "pose": [2, 5]}
    box = ["area", "bbox", "bbox_mode", "category_id", "iscrowd"]
    assert fields["seg"] == [sorted("none")]
    assert fields["det"] == [box]
    assert fields["pose"] == [sorted([*box, "keypoints"])]


def test_a_file_that_is_not_there(tmp_path: Path, capsys) -> None:
    assert tool.main(["--json", str(tmp_path / "no.json"), "--output", str(tmp_path)]) == 2
    assert "no.json: there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images",), None, "field 'images': found NoneType, expected a list"),
        (("annotations",), None, "field 'annotations': found NoneType, expected a list"),
        (("categories",), {}, "field 'categories': found dict, expected a list"),
        (("annotations", 0), 5, "annotations[0]: found 5, expected an object"),
        (("images", 1, "id"), "b7", "images[1]: field 'id': found 'b7', expected an integer"),
        (("images", 0, "file_name"), None, "field 'file_name': found None, expected a file name"),
        (("images", 1, "file_name"), "../a.png", "'../a.png', expected a file name inside of the"),
        (("images", 1, "file_name"), "/a.png", "'/a.png', expected a file name inside of the"),
        (("images", 2, "width"), 0, "field 'width': found 0, expected a number of pixels"),
        (("categories", 0, "id"), "1", "categories[0]: field 'id': found '1', expected an integer"),
        (("annotations", 2, "image_id"), "3", "field 'image_id': found '3', expected an integer"),
        (("annotations", 2, "bbox"), [1, 2], "field 'bbox': found [1, 2], expected four numbers"),
        (("annotations", 2, "category_id"), 9, "'category_id': found 9, expected one of [1]"),
        (("annotations", 2, "image_id"), 9, "'image_id': found 9, expected one of [1, 2, 3"),
        (("images", 3, "id"), 6, "field 'images': found the id 6 twice, expected another id for"),
        (("images", 5, "file_name"), "3.jpg", "found two images called 3, whose maps would be one"),
    ],
)
def test_a_field_of_another_kind(
    place: tuple, value: object, message: str, tmp_path: Path, capsys
) -> None:
    source = write_people(tmp_path / "images", num_images=6)
    content = json.loads(source.read_text())
    *parents, last = place
    functools.reduce(operator.getitem, parents, content)[last] = value
    source.write_text(json.dumps(content))
    assert tool.main(["--json", str(source), "--output", str(tmp_path / "thirds")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"Error: {source}: ") and message in error
    assert not (tmp_path / "thirds").exists()


@pytest.mark.parametrize(
    ("third", "field", "value"),
    [(0, "segmentation", []), (1, "image_id", 2), (2, "keypoints", [0] * 51)],
)
def test_a_third_without_labels(third: int, field: str, value: object, tmp_path, capsys) -> None:
    source = write_people(tmp_path / "images", num_images=6)
    content = json.loads(source.read_text())
    for annotation in content["annotations"]:
        if annotation["image_id"] % 3 == third:
            annotation[field] = value
    source.write_text(json.dumps(content))
    assert tool.main(["--json", str(source), "--output", str(tmp_path / "thirds")]) == 2
    task, found = tool.PARTS[third], "bbox" if third == 1 else field
    message = f"found 2 images with an id of {third} modulo 3, and no {found!r} of them, expected"
    assert f"{message} some for {task}.json" in capsys.readouterr().err
    assert not (tmp_path / "thirds").exists()


def test_the_input_is_not_overwritten(tmp_path: Path, capsys) -> None:
    source = write_people(tmp_path / "images").rename(tmp_path / "det.json")
    before = source.read_bytes()
    for output, message in ((tmp_path, "which would be overwritten"), (source, "found the file")):
        assert tool.main(["--json", str(source), "--output", str(output)]) == 2
        assert message in capsys.readouterr().err
    assert source.read_bytes() == before and sorted(tmp_path.iterdir())[0] == source


def test_flags_as_text_and_bad_masks_are_told(tmp_path: Path, caplog) -> None:
    source = write_people(tmp_path / "images", num_images=6)
    content = json.loads(source.read_text())
    content["annotations"][2]["iscrowd"] = "0"
    content["annotations"][5]["segmentation"] = [[1, 2]]
    source.write_text(json.dumps(content))
    DATA_REPORT.clear()
    assert tool.main(["--json", str(source), "--output", str(tmp_path / "thirds")]) == 0
    values = [np.unique(Image.open(tmp_path / f"thirds/sem_seg/{x}.png")).tolist() for x in (3, 6)]
    assert values == [[0, 1], [0, 255]]
    assert set(DATA_REPORT.counts) == {FLAG_AS_TEXT, BAD_MASK}
    assert "annotations[5]: field 'segmentation'" in caplog.records[-1].getMessage()
    DATA_REPORT.clear()


def test_maps_are_painted_from_masks_and_crowds_are_ignored(tmp_path: Path) -> None:
    def square(x: int, category: int, crowd: int) -> dict:
        polygon = [x, 0, x + 2, 0, x + 2, 2, x, 2]
        return {"image_id": 3, "category_id": category, "iscrowd": crowd, "segmentation": [polygon]}

    image = {"id": 3, "file_name": "a/b.jpg", "height": 3, "width": 7}
    content = {
        "categories": [{"id": 9}, {"id": 4}],
        "annotations": [square(0, 9, 0), square(3, 4, 0), square(4, 4, 1)],
    }
    tool.write_maps(content, [image], tmp_path, "labels.json")
    row = [2, 2, 0, 1, 1, 255, 0]
    assert np.array(Image.open(tmp_path / "a" / "b.png")).tolist() == [row, row, [0] * 7]
