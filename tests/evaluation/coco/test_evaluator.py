from __future__ import annotations

import copy
import json
import logging
import math

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator, check_oks_sigmas
from d2_multitask.evaluation.coco.labels import coco_ground_truth
from evaluation_support import (
    JOINTS,
    annotation,
    coco_json,
    inputs_of,
    instances,
    perfect_outputs,
    two_images,
)

SIGMAS = [0.08] * len(JOINTS)


def evaluate(name, outputs, tmp_path, metrics=("bbox", "keypoints"), sigmas=SIGMAS, inputs=None):
    evaluator = MultitaskCOCOEvaluator(
        name, metrics, output_dir=str(tmp_path / "predictions"), kpt_oks_sigmas=sigmas
    )
    evaluator.reset()
    evaluator.process(inputs_of(name) if inputs is None else inputs, outputs)
    return evaluator.evaluate()


def test_labels_as_predictions_get_100(register, tmp_path):
    content = two_images()
    results = evaluate(register(content), perfect_outputs(content), tmp_path)
    assert set(results) == {"bbox", "keypoints"}
    for metric in ("AP", "AP50", "AP75"):
        assert results["bbox"][metric] == pytest.approx(100)
        assert results["keypoints"][metric] == pytest.approx(100)
    assert math.isnan(results["bbox"]["APl"])  # no object is that large


def test_same_numbers_as_cocos_own_tool(register, tmp_path):
    """Golden numbers from pycocotools on the file itself, for predictions that are partly wrong."""
    content = two_images()
    name = register(content)
    outputs = [
        {"instances": instances([[6, 7, 20, 38], [50, 2, 9, 9]])},
        {"instances": instances([[14, 8, 36, 50]], score=0.5)},
    ]
    results = evaluate(name, outputs, tmp_path, ("bbox",))
    labels = COCO(MetadataCatalog.get(name).json_file)
    rows = [(1, [6, 7, 20, 38], 0.9), (1, [50, 2, 9, 9], 0.9), (2, [14, 8, 36, 50], 0.5)]
    predicted = labels.loadRes(
        [{"image_id": i, "category_id": 1, "bbox": b, "score": s} for i, b, s in rows]
    )
    golden = COCOeval(labels, predicted, "bbox")
    golden.evaluate()
    golden.accumulate()
    golden.summarize()
    assert 0 < golden.stats[0] < 1
    assert results["bbox"]["AP"] == pytest.approx(100 * golden.stats[0], abs=1e-4)
    assert results["bbox"]["AP50"] == pytest.approx(100 * golden.stats[1], abs=1e-4)


def test_shifted_joints_lose_keypoint_ap_only(register, tmp_path):
    content = two_images()
    outputs = perfect_outputs(content)
    for output in outputs:
        output["instances"].pred_keypoints[..., 0] += 12
    results = evaluate(register(content), outputs, tmp_path)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["keypoints"]["AP"] < 50


@pytest.mark.parametrize(
    ("outputs", "inputs"),
    [
        pytest.param([{"instances": instances([], [])}] * 2, None, id="empty instances"),
        pytest.param([], [], id="no image processed"),
    ],
)
def test_no_predictions_are_ap_0_with_all_keys(outputs, inputs, register, tmp_path, caplog):
    results = evaluate(register(two_images()), outputs, tmp_path, inputs=inputs)
    assert results["bbox"]["AP"] == results["keypoints"]["AP"] == 0
    assert set(results["bbox"]) == {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    assert "no object" in caplog.text


def test_predictions_that_are_not_finite_are_counted(register, tmp_path, caplog):
    content = two_images()
    outputs = perfect_outputs(content)
    outputs[0]["instances"].scores[1] = math.nan
    outputs[1]["instances"].pred_keypoints[0, 2, 0] = math.inf
    results = evaluate(register(content), outputs, tmp_path)
    assert "2 predictions" in caplog.text
    assert 0 < results["bbox"]["AP"] < 100


def test_crowd_regions_are_ignored(register, tmp_path):
    """A box inside a crowd region is neither right nor wrong."""
    content = two_images()
    content["annotations"].append(annotation(4, 2, [50, 0, 30, 60], iscrowd=1))
    outputs = perfect_outputs(content)
    outputs[1]["instances"] = instances(
        [[10, 8, 36, 50], [52, 5, 20, 40]], [content["annotations"][2]["keypoints"]] * 2
    )
    assert evaluate(register(content), outputs, tmp_path)["bbox"]["AP"] == pytest.approx(100)


def test_data_set_without_joints_has_no_keypoint_ap(register, tmp_path, caplog):
    content = two_images()
    for entry in content["annotations"]:
        entry["keypoints"] = [0] * 15
        entry["num_keypoints"] = 0
    with caplog.at_level(logging.INFO):
        results = evaluate(register(content), perfect_outputs(content), tmp_path)
    assert set(results) == {"bbox"}
    assert "no labelled keypoints" in caplog.text


def drop(field):
    return lambda a: a.pop(field)


def put(field, value):
    return lambda a: a.update({field: value})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(put("id", 0), id="id 0, which pycocotools takes for no match"),
        pytest.param(put("id", 3), id="an id that another object has"),
        pytest.param(put("id", "first"), id="an id that is text"),
        pytest.param(drop("id"), id="no id"),
        pytest.param(drop("iscrowd"), id="no iscrowd"),
        pytest.param(drop("area"), id="no area"),
        pytest.param(put("area", math.nan), id="area that is NaN"),
        pytest.param(drop("num_keypoints"), id="no num_keypoints"),
        pytest.param(drop("segmentation"), id="no mask"),
        pytest.param(put("bbox", [5, 5, 0, 40]), id="empty box, replaced by the mask's"),
    ],
)
def test_labels_that_cocos_tool_stumbles_over(change, register, tmp_path):
    content = two_images()
    outputs = perfect_outputs(content)
    change(content["annotations"][0])
    results = evaluate(register(content), outputs, tmp_path)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["keypoints"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("first", [True, False])
def test_person_without_joints_does_not_count_in_keypoint_ap(first, register, tmp_path):
    content = two_images()
    outputs = perfect_outputs(content)
    del content["annotations"][0 if first else 2]["keypoints"]
    results = evaluate(register(content), outputs, tmp_path)
    assert results["keypoints"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        pytest.param(put("image_id", 77), 2, id="unknown image"),
        pytest.param(drop("image_id"), 2, id="no image"),
        pytest.param(put("category_id", 9), 3, id="unknown category becomes an ignored region"),
    ],
)
def test_ground_truth_follows_the_rules_of_training(change, kept, register):
    content = two_images()
    change(content["annotations"][0])
    annotations = coco_ground_truth(register(content))["annotations"]
    assert len(annotations) == kept
    assert [a["id"] for a in annotations] == list(range(1, kept + 1))
    assert [a["iscrowd"] for a in annotations] == ([1, 0, 0] if kept == 3 else [0, 0])


def test_ground_truth_of_a_clean_file_is_the_file(register):
    content = two_images()
    content["annotations"].append(copy.deepcopy(content["annotations"][0]))  # listed twice
    ground_truth = coco_ground_truth(register(content))
    fields = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "keypoints")
    assert [[a[f] for f in fields] for a in ground_truth["annotations"]] == [
        [a[f] for f in fields] for a in content["annotations"][:3]
    ]


def test_dicts_registered_in_python_are_scored_and_left_alone(tmp_path):
    joints = [[12.5 + i, 20.5 + i, 2.0] for i in range(5)]
    record = {
        "file_name": "a.png",
        "image_id": "a",
        "height": 60,
        "width": 80,
        "annotations": [
            {
                "bbox": [10, 10, 40, 50],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 0,
                "keypoints": [value for joint in joints for value in joint],
            },
        ],
    }
    before = copy.deepcopy(record)
    name = "evaluation_test_python"
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(thing_classes=["person"], keypoint_names=JOINTS)
    try:
        prediction = instances([[10, 10, 30, 40]])
        prediction.pred_keypoints = torch.tensor([joints])
        results = evaluate(name, [{"instances": prediction}], tmp_path)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["keypoints"]["AP"] == pytest.approx(100)
    assert record == before


def test_predictions_are_written_even_without_labels(register, tmp_path):
    content = two_images()
    outputs = perfect_outputs(content)
    del content["annotations"]
    name = register(content)
    MetadataCatalog.get(name).set(thing_classes=["person"])
    assert evaluate(name, outputs, tmp_path) == {}
    rows = json.loads((tmp_path / "predictions" / "coco_instances_results.json").read_text())
    assert [row["image_id"] for row in rows] == [1, 1, 2]


def test_output_without_instances_is_an_error(register, tmp_path):
    with pytest.raises(ValueError, match=r"1\.png.*\['sem_seg'\].*expected 'instances'"):
        evaluate(register(two_images()), [{"sem_seg": None}] * 2, tmp_path)


def test_unknown_image_is_an_error(register, tmp_path):
    name = register(two_images())
    inputs = [{"file_name": "x.png", "image_id": 99}]
    with pytest.raises(ValueError, match=r"x\.png: 'image_id' is 99"):
        evaluate(name, [{"instances": instances([], [])}], tmp_path, inputs=inputs)


@pytest.mark.parametrize(
    ("sigmas", "num_keypoints", "message"),
    [
        pytest.param([], 11, "found none, that is COCO's 17, expected 11", id="none for 11 joints"),
        pytest.param([0.1] * 3, 2, "found 3 values, expected 2", id="too many"),
        pytest.param([0.1, 0], 2, "expected values above 0", id="zero"),
        pytest.param([0.1, math.nan], 2, "expected values above 0", id="not a number"),
    ],
)
def test_wrong_sigmas(sigmas, num_keypoints, message):
    with pytest.raises(ValueError, match=r"TEST\.KEYPOINT_OKS_SIGMAS.*" + message):
        check_oks_sigmas(sigmas, num_keypoints, "my_people")


def test_message_about_sigmas_has_an_example_to_paste():
    with pytest.raises(ValueError, match=r'TEST.KEYPOINT_OKS_SIGMAS "\[0.08, 0.08\]"'):
        check_oks_sigmas([], 2, "my_people")


def test_17_joints_need_no_sigmas():
    check_oks_sigmas([], 17, "my_people")


def test_detections_beyond_cocos_100(register, tmp_path):
    """With a higher limit, the object that is found as number 101 counts."""
    content = coco_json([annotation(1, 1, [5, 5, 20, 40])], num_images=1)
    boxes = [[60.0, 30.0, 4.0, 4.0]] * 100 + [[5, 5, 20, 40]]
    prediction = instances(boxes)
    prediction.scores[100] = 0.1
    name = register(content)
    found = {}
    for limit in (100, 200):
        evaluator = MultitaskCOCOEvaluator(
            name, ("bbox",), output_dir=str(tmp_path), max_dets_per_image=limit
        )
        evaluator.reset()
        evaluator.process(inputs_of(name), [{"instances": prediction}])
        found[limit] = evaluator.evaluate()["bbox"]["AP"]
    assert found[100] == 0
    assert found[200] == pytest.approx(100 / 101, rel=0.05)


def test_ground_truth_from_the_file_is_that_from_the_records(register):
    """Detectron2's own loader keeps no area; then the file is read again."""
    content = two_images()
    content["annotations"].append(annotation(4, 2, [50, 0, 30, 60], iscrowd=1, area=775.5))
    content["annotations"][1]["category_id"] = 9  # unknown: ignored
    name = register(content)
    records = DatasetCatalog.get(name)
    expected = coco_ground_truth(name, records)
    for record in records:
        for label in record["annotations"]:
            del label["area"]
    found = coco_ground_truth(name, records)
    assert found["annotations"] == expected["annotations"]
    assert [a["area"] for a in found["annotations"]][-1] == 775.5
    assert [c["id"] for c in found["categories"]] == [c["id"] for c in expected["categories"]]
    assert [i["id"] for i in found["images"]] == [i["id"] for i in expected["images"]]


def test_one_file_under_two_ids_is_one_image_of_the_file(register):
    content = two_images()
    content["images"][1].update({**content["images"][0], "id": 2})
    name = register(content)
    records = DatasetCatalog.get(name)
    for record in records:
        for label in record["annotations"]:
            del label["area"]  # as Detectron2's own loader leaves it out
    found = coco_ground_truth(name, records)["annotations"]
    assert len(found) == len(content["annotations"]) and {a["image_id"] for a in found} == {1}
