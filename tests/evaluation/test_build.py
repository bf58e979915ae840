from __future__ import annotations

import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_multitask.evaluation.build import EVALUATORS, build_evaluator
from evaluation_support import JOINTS, assert_names_known, inputs_of, perfect_outputs, two_images


def evaluate(cfg, name, outputs):
    evaluator = build_evaluator(cfg, name, cfg.OUTPUT_DIR)
    evaluator.reset()
    evaluator.process(inputs_of(name), outputs)
    results = evaluator.evaluate()
    assert_names_known(evaluator, results)
    return results


@pytest.mark.parametrize(
    ("tasks", "test_tasks", "expected"),
    [
        (["seg", "det", "pose"], [], {"bbox", "keypoints", "sem_seg"}),
        (["seg", "det", "pose"], ["det"], {"bbox"}),
        (["seg", "pose"], [], {"keypoints", "sem_seg"}),
        (["seg"], [], {"sem_seg"}),
        (["pose"], [], {"keypoints"}),
        (["det", "a_task_without_a_metric"], [], {"bbox"}),
    ],
)
def test_tasks_choose_the_metrics(tasks, test_tasks, expected, cfg, register):
    content = two_images()
    cfg.MODEL.TASKS, cfg.TEST.TASKS = tasks, test_tasks
    results = evaluate(cfg, register(content), perfect_outputs(content))
    assert set(results) == expected


def test_labels_as_predictions_get_100_in_one_run(cfg, register):
    content = two_images()
    results = evaluate(cfg, register(content), perfect_outputs(content))
    for task, metric in (("bbox", "AP"), ("keypoints", "AP"), ("sem_seg", "IoU-person")):
        assert results[task][metric] == pytest.approx(100)


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (["seg", "det"], {"bbox", "segm", "sem_seg", "panoptic_seg"}),
        (["det"], {"bbox"}),
        (["seg"], {"sem_seg"}),
    ],
)
def test_masks_from_the_semantic_map(tasks, expected, cfg, register):
    content = two_images()
    outputs = perfect_outputs(content)
    for image, output in zip(content["images"], outputs, strict=True):
        labels = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        masks = [mask_util.decode(a["segmentation"]) for a in labels if not a.get("iscrowd")]
        masks = torch.from_numpy(np.array(masks).reshape(-1, *output["sem_seg"].shape[1:]))
        output["instances"].pred_masks = masks.bool()
        ids = (masks * torch.arange(1, len(masks) + 1)[:, None, None]).sum(0)
        thing = {"isthing": True, "category_id": 0}
        output["panoptic_seg"] = ids, [{"id": i + 1, **thing} for i in range(len(masks))]
    cfg.MODEL.MASK_ON, cfg.TEST.PANOPTIC = True, True
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.TASKS = "MultitaskCenterNet", tasks
    results = evaluate(cfg, register(content), outputs)
    assert set(results) == expected
    if "segm" in expected:
        assert results["segm"]["AP"] == pytest.approx(100)
        assert results["panoptic_seg"] == pytest.approx({"PQ": 100, "SQ": 100, "RQ": 100})


def test_data_set_without_a_mask_has_no_iou(cfg, register, caplog):
    content = two_images()
    outputs = perfect_outputs(content)
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    with caplog.at_level(logging.INFO):
        results = evaluate(cfg, register(content), outputs)
    assert set(results) == {"bbox", "keypoints"}
    assert "no semantic maps" in caplog.text


def test_nothing_to_evaluate_is_a_warning(cfg, register, caplog):
    content = two_images()
    outputs = perfect_outputs(content)
    cfg.MODEL.TASKS = ["seg"]
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    assert evaluate(cfg, register(content), outputs) == {}
    assert "nothing to evaluate" in caplog.text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "MODEL.POSE_HEAD.NUM_KEYPOINTS",
            17,
            r"found 5, .*joint_0.* expected 17 .* MODEL\.POSE_HEAD\.NUM_KEYPOINTS to 5",
        ),
        (
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
            54,
            r"found 2, \['background', 'person'\], expected 54 .*SEM_SEG_HEAD\.NUM_CLASSES to 2",
        ),
        ("TEST.KEYPOINT_OKS_SIGMAS", [], r"TEST\.KEYPOINT_OKS_SIGMAS: found none.*expected 5"),
        ("TEST.KEYPOINT_OKS_SIGMAS", [0.1] * 4, r"found 4 values, expected 5"),
    ],
)
def test_config_that_does_not_fit_the_data(key, value, message, cfg, register):
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        build_evaluator(cfg, register(two_images()), cfg.OUTPUT_DIR)


def test_unknown_evaluator_type(cfg):
    name = "evaluation_test_unknown"
    DatasetCatalog.register(name, lambda: [{}])
    MetadataCatalog.get(name).set(evaluator_type="lvis", keypoint_names=JOINTS)
    try:
        with pytest.raises(ValueError, match="'lvis', expected one of.*'multitask_coco'"):
            build_evaluator(cfg, name, cfg.OUTPUT_DIR)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_table_knows_the_type_that_registration_gives(register):
    assert MetadataCatalog.get(register(two_images())).evaluator_type in EVALUATORS


def test_backend_is_the_configs(cfg, register):
    name = register(two_images())
    cfg.TEST.COCO_BACKEND = "pycocotools"
    (evaluator, *_) = build_evaluator(cfg, name, cfg.OUTPUT_DIR)._evaluators
    assert evaluator.backend == "pycocotools"
    cfg.TEST.COCO_BACKEND = "none"
    with pytest.raises(ValueError, match=r"TEST\.COCO_BACKEND: found 'none'"):
        build_evaluator(cfg, name, cfg.OUTPUT_DIR)


def test_task_that_nobody_measures_is_named(cfg, register, caplog):
    cfg.MODEL.TASKS = ["det", "depth"]
    build_evaluator(cfg, (name := register(two_images())), cfg.OUTPUT_DIR)
    (message,) = [m for m in caplog.messages if "is not evaluated" in m]
    assert "'depth'" in message and name in message and "'multitask_coco'" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 1, "file_name": "a.png"}, "image_id: found 1 for .* each image once"),
        ({"image_id": None}, "image_id: found none"),
        ({"annotations": [{"category_id": [7]}]}, r"category_id: found \['\[7\]'\]"),
    ],
)
def test_labels_that_cannot_be_scored(change, message, cfg):
    image = {"file_name": "a.png", "image_id": 1, "annotations": []}
    records = [image, image | {"file_name": "b.png", "image_id": 2} | change]
    DatasetCatalog.register("unscored", lambda: records)
    MetadataCatalog.get("unscored").set(evaluator_type="coco", thing_classes=["person"])
    try:
        with pytest.raises(ValueError, match=f"'unscored': .*{message}"):
            build_evaluator(cfg, "unscored", cfg.OUTPUT_DIR)
    finally:
        DatasetCatalog.remove("unscored")
        MetadataCatalog.remove("unscored")


def test_maps_of_other_values_are_not_scored(cfg, tmp_path):
    values = np.zeros((8, 8), np.uint8)
    values[2:6] = 255  # foreground, not "no label"
    Image.fromarray(values).save(tmp_path / "map.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "image_id": 1, "height": 8, "width": 8}
    record["sem_seg_file_name"] = str(tmp_path / "map.png")
    DatasetCatalog.register("odd_maps", lambda: [record])
    MetadataCatalog.get("odd_maps").set(evaluator_type="sem_seg", stuff_classes=["a", "b"])
    cfg.MODEL.TASKS, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = ["seg"], 2
    try:
        with pytest.raises(ValueError, match="'odd_maps'.*SEM_SEG_IDS"):
            build_evaluator(cfg, "odd_maps", cfg.OUTPUT_DIR)
    finally:
        DatasetCatalog.remove("odd_maps")
        MetadataCatalog.remove("odd_maps")
