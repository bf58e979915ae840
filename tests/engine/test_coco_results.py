"""COCO-format JSON of results: numbers by hand, and read by pycocotools."""

from __future__ import annotations

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from d2_multitask.engine.coco_results import CocoResults, image_ids, known_image_ids

PEOPLE = Metadata(
    thing_dataset_id_to_contiguous_id={7: 0, 9: 1}, stuff_classes=["background", "person"]
)


def found(keypoints: bool = True) -> Instances:
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.tensor([[10.0, 20.0, 30.0, 35.0]]))
    instances.scores = torch.tensor([0.75])
    instances.pred_classes = torch.tensor([1])
    if keypoints:
        instances.pred_keypoints = torch.tensor([[[12.5, 22.5, 0.5], [20.0, 30.0, 0.25]]])
    return instances


def test_objects_in_cocos_conventions():
    results = CocoResults(PEOPLE)
    results.add(3, "a.png", (40, 60), found(), None)
    assert results.objects == [
        {
            "image_id": 3,
            "category_id": 9,  # the dataset's id of class 1
            "bbox": [10.0, 20.0, 20.0, 15.0],  # x, y, w, h
            "score": 0.75,
            "keypoints": [12.0, 22.0, 0.5, 19.5, 29.5, 0.25],  # pixel indices
        }
    ]
    assert results.images == [{"id": 3, "file_name": "a.png", "width": 60, "height": 40}]


def test_adding_does_not_move_the_joints():
    instances = found()
    CocoResults(PEOPLE).add(3, "a.png", (40, 60), instances, None)
    assert instances.pred_keypoints[0, 0].tolist() == [12.5, 22.5, 0.5]


def test_masks_are_rle():
    instances, results = found(), CocoResults(PEOPLE)
    instances.pred_masks = torch.zeros(1, 40, 60, dtype=torch.bool)
    instances.pred_masks[0, 20:30, 10:40] = True
    results.add(3, "a.png", (40, 60), instances, None)
    (entry,) = json.loads(json.dumps(results.objects))
    assert (mask_util.decode(entry["segmentation"]) == instances.pred_masks[0].numpy()).all()
    assert entry["keypoints"][:2] == [12.0, 22.0]


def test_without_metadata_the_category_is_the_class_plus_one():
    results = CocoResults(Metadata())
    results.add(1, "a.png", (40, 60), found(keypoints=False), None)
    assert results.objects[0]["category_id"] == 2
    assert "keypoints" not in results.objects[0]


def test_semantic_classes_as_rle_without_background():
    classes = np.zeros((40, 60), np.int64)
    classes[5:15, 20:25] = 1
    results = CocoResults(PEOPLE)
    results.add(3, "a.png", (40, 60), None, classes)
    (entry,) = results.sem_seg
    assert (entry["image_id"], entry["category_id"]) == (3, 1)
    assert (mask_util.decode(entry["segmentation"]) == classes).all()


def test_the_first_class_is_written_if_it_is_no_background():
    results = CocoResults(Metadata(stuff_classes=["sky", "road"]))
    results.add(1, "a.png", (40, 60), None, np.zeros((40, 60), np.int64))
    assert [entry["category_id"] for entry in results.sem_seg] == [0]


def test_the_written_files_are_read_by_pycocotools(tmp_path):
    results = CocoResults(PEOPLE)
    results.add(3, "a.png", (40, 60), found(), np.ones((40, 60), np.int64))
    paths = results.write(tmp_path / "new" / "r.json")
    assert [path.name for path in paths] == ["r.json", "r_sem_seg.json", "r_images.json"]
    truth = COCO()
    truth.dataset = {
        "images": json.loads(paths[2].read_text()),
        "annotations": [],
        "categories": [{"id": 9, "name": "person"}],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(paths[0]))
    assert loaded.anns[1]["bbox"] == [10.0, 20.0, 20.0, 15.0]


def test_images_without_objects_give_an_empty_list(tmp_path):
    results = CocoResults(PEOPLE)
    results.add(1, "a.png", (40, 60), found()[:0], None)
    paths = results.write(tmp_path / "r.json")
    assert json.loads(paths[0].read_text()) == []
    assert len(paths) == 2


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        pytest.param(["x/b.png", "a.png"], {"a.png": 4, "b.png": 8}, [8, 4], id="data-set"),
        pytest.param(["b.png", "7.png"], {"b.png": 8}, [1, 2], id="partly-known"),
        pytest.param(["000785.jpg", "12.png"], {}, [785, 12], id="numbers"),
        pytest.param(["1/7.png", "2/7.png"], {}, [1, 2], id="numbers-twice"),
        pytest.param(["9" * 60 + ".png"], {}, [1], id="number-of-60-digits"),
        pytest.param(
            ["x/one/a.png", "two/a.png"], {"one/a.png": 5, "two/a.png": "t"}, [5, "t"], id="folders"
        ),
        pytest.param(["b/a.png", "a.png"], {"a.png": 5, "b/a.png": 6}, [6, 5], id="longest-path"),
        pytest.param(["one/a.png", "two/a.png"], {"a.png": 5}, [1, 2], id="one-entry-for-two"),
        pytest.param(["²³.png", "a.png"], {}, [1, 2], id="no-number"),
        pytest.param([], {}, [], id="none"),
    ],
)
def test_image_ids(names, known, expected):
    assert image_ids(names, known) == expected


def test_known_image_ids_come_from_the_data_sets_file(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"images": [{"id": 5, "file_name": "train/a.png"}]}))
    assert known_image_ids(Metadata(json_file=str(path))) == {"train/a.png": 5}
    assert known_image_ids(Metadata(json_file=str(tmp_path / "absent.json"))) == {}
    assert known_image_ids(Metadata()) == {}
