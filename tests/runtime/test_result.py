"""What a result says in COCO's and supervision's formats."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances

from d2_multitask.modeling.inference.instance_masks import InstanceMaskNetwork, MaskOptions
from d2_multitask.runtime import Result, parse_model_info
from runtime_support import metadata

INFO = parse_model_info(json.dumps(metadata()), "a.onnx")


@pytest.fixture
def result() -> Result:
    random = np.random.default_rng(0)
    corners = np.sort(random.uniform(0, 40, (3, 2, 2)), 1).astype(np.float32)
    return Result(
        (40, 60),
        INFO,
        boxes=corners.reshape(3, 4),
        scores=np.array([0.2, 0.9, 0.4], np.float32),
        classes=np.array([0, 1, 0]),
        keypoints=random.uniform(0, 40, (3, 2, 3)).astype(np.float32),
        maps={"sem_seg": random.normal(size=(2, 40, 60)).astype(np.float32)},
    )


def test_coco_json_is_detectron2s(result):
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.from_numpy(result.boxes))
    instances.scores = torch.from_numpy(result.scores)
    instances.pred_classes = torch.from_numpy(result.classes)
    instances.pred_keypoints = torch.from_numpy(result.keypoints).clone()  # shifted in place
    expected = instances_to_coco_json(instances, 7)
    for entry in expected:
        entry["category_id"] = {0: 1, 1: 18}[entry["category_id"]]
    assert json.loads(json.dumps(result.to_coco(7))) == expected
    (bright,) = result.sem_seg_to_coco(7)
    assert (bright["image_id"], bright["category_id"]) == (7, 1)
    assert (mask_util.decode(bright["segmentation"]) == result.sem_seg).all()


def test_masks_are_those_of_the_network_in_pytorch(result):
    names = ("person", "dog")
    maps = {"sem_seg": dataclasses.replace(INFO.maps["sem_seg"], class_names=names)}
    result.info = dataclasses.replace(INFO, maps=maps)
    fields = {
        "pred_boxes": Boxes(torch.from_numpy(result.boxes)),
        "scores": torch.from_numpy(result.scores),
        "pred_classes": torch.from_numpy(result.classes),
        "pred_keypoints": torch.from_numpy(result.keypoints),
    }
    found = {
        "instances": Instances((40, 60), **fields),
        "sem_seg": torch.from_numpy(result.maps["sem_seg"]),
    }
    options = MaskOptions(names, names, [(0, 1)], confidence_threshold=0.3)
    InstanceMaskNetwork(lambda _: [found], options)([{}])
    masks = result.with_masks().masks
    assert (masks == found["instances"].pred_masks.numpy()).all() and masks.any((1, 2)).all()


def test_masks_need_objects_a_map_and_the_same_classes(result):
    with pytest.raises(ValueError, match="no semantic class for the object classes"):
        result.with_masks()
    with pytest.raises(ValueError, match="found a result without objects"):
        dataclasses.replace(result, maps={}).with_masks()


def test_masks_and_tracks_in_coco_json(result):
    result.masks = np.random.default_rng(0).random((3, 40, 60)) < 0.3
    result.track_ids = np.array([4, 9, 2])
    found = result.to_coco(1)
    for mask, entry in zip(result.masks, found, strict=True):
        assert (mask_util.decode(entry["segmentation"]) == mask).all()
    assert [entry["track_id"] for entry in found] == [4, 9, 2]


def test_instance_masks_share_out_the_pixels_of_a_class():
    logits = np.zeros((2, 40, 60), np.float32)
    logits[1, 5:35] = 1
    info = parse_model_info(json.dumps(metadata(objects__class_names=["bright", "background"])), "")
    result = Result(
        (40, 60),
        info,
        boxes=np.array([[0, 5, 30, 35], [30, 5, 60, 35]], np.float32),
        scores=np.array([0.9, 0.8], np.float32),
        classes=np.array([0, 0]),
        maps={"sem_seg": logits},
    )
    masks = result.with_masks().masks
    assert (masks.any(0) == logits[1]).mean() > 0.99
    assert masks[0, 20, 10] and masks[1, 20, 50]
    assert not masks.all(0).any()
    with pytest.raises(ValueError, match="found a result without objects or without a semantic"):
        Result((4, 4), INFO).with_masks()


def test_what_was_not_asked_for_is_not_written():
    result = Result((4, 4), INFO)
    assert (len(result), result.to_coco(1), result.sem_seg_to_coco(1)) == (0, [], [])
    assert result.sem_seg is None
    assert result.confident() is result


def test_an_image_without_objects(result):
    none = result.select(np.zeros(3, bool))
    none.masks = np.zeros((0, 40, 60), bool)
    assert (len(none), none.to_coco(1)) == (0, [])
    assert len(none.confident()) == 0


def test_the_best_objects_first(result):
    chosen = result.confident()
    assert chosen.scores.tolist() == pytest.approx([0.9, 0.4])
    assert (chosen.keypoints[0] == result.keypoints[1]).all()
    assert len(result.confident(0.0)) == 3
    assert len(result) == 3


def test_supervision(result, monkeypatch):
    fake = SimpleNamespace(Detections=lambda **fields: fields)
    monkeypatch.setitem(sys.modules, "supervision", fake)
    fields = result.to_supervision()
    assert fields["xyxy"] is result.boxes
    assert fields["confidence"] is result.scores
    assert fields["data"]["class_name"].tolist() == ["person", "dog", "person"]
    with pytest.raises(ValueError, match="found a result without objects"):
        dataclasses.replace(result, scores=None).to_supervision()
