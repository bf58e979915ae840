"""Predictions as COCO's results: what Detectron2 makes of them, and the files it writes."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from d2_multitask.evaluation.coco.predictions import (
    coco_results,
    with_category_ids,
    write_instances,
    write_results,
)
from evaluation_support import instances

JOINTS = [[0.1 * i for i in range(15)], [7.7] * 15]


def people(joints: bool = True, masks: bool = False, boxes=((1, 2, 30, 40), (5, 5.5, 20, 11))):
    boxes = [list(box) for box in boxes]
    result = instances(boxes, JOINTS[: len(boxes)] if joints else None)
    if masks:
        result.pred_masks = torch.rand(len(result), *result.image_size) > 0.5
    return result


@pytest.mark.parametrize(
    "predicted",
    [
        pytest.param(people(), id="joints"),
        pytest.param(people(joints=False), id="boxes only"),
        pytest.param(people(masks=True), id="masks"),
        pytest.param(people(boxes=()), id="none"),
    ],
)
def test_same_as_detectron2_without_changing_the_instances(predicted):
    expected = instances_to_coco_json(copy.deepcopy(predicted), "a")
    before = copy.deepcopy(predicted.get_fields())
    assert coco_results(predicted, "a") == expected
    for name, value in predicted.get_fields().items():
        tensor = getattr(value, "tensor", value)
        assert torch.equal(tensor, getattr(before[name], "tensor", before[name]))


def test_category_ids():
    results = [{"category_id": 1}, {"category_id": 0}]
    assert with_category_ids(results, {7: 0, 90: 1}) == [{"category_id": 90}, {"category_id": 7}]
    assert with_category_ids(results, None) == results
    assert results[0] == {"category_id": 1}
    with pytest.raises(ValueError, match=r"pred_classes: found \[1\], expected one of .*\[0\]"):
        with_category_ids(results, {7: 0})


@pytest.mark.parametrize("orjson", [True, False])
def test_files_can_be_read_back(orjson, tmp_path, monkeypatch):
    if orjson and importlib.util.find_spec("orjson") is None:
        pytest.skip("orjson is not installed")
    if not orjson:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    results = coco_results(people(), 3)
    predictions = [{"image_id": 3, "instances": results}, {"image_id": 4, "instances": []}]
    folder = str(tmp_path / "new")
    assert torch.load(write_instances(folder, predictions)) == predictions
    with open(write_results(folder, results)) as file:
        assert json.load(file) == results


def test_integers_of_more_than_64_bits_are_written(tmp_path):
    path = write_results(str(tmp_path), [{"image_id": 2**70}])
    assert json.loads(Path(path).read_text()) == [{"image_id": 2**70}]
