"""All eight metrics in one run, for the labels themselves and for answers that know nothing."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from d2_multitask.evaluation.build import build_evaluator
from d2_multitask.evaluation.results import format_results
from detail_support import (
    CHAIR,
    MAIN,
    detail_record,
    inputs_of,
    perfect_output,
    random_output,
    three_images,
)
from evaluation_support import assert_names_known


def evaluate(cfg, name, records, outputs):
    evaluator = build_evaluator(cfg, name, cfg.OUTPUT_DIR)
    evaluator.reset()
    for input_, output in zip(inputs_of(records), outputs, strict=True):
        evaluator.process([input_], [output])
    results = evaluator.evaluate()
    assert_names_known(evaluator, results)
    return results


def test_perfect_predictions_are_perfect_in_all_eight(cfg, register_records):
    # Thinning takes the outlines' corners away; in images of this size the usual distance is below
    # a pixel, and no neighbour could stand in for them.
    cfg.TEST.PASCAL_IN_DETAIL.BOUNDARY_MAX_DISTANCE = 0.02
    records = three_images()
    results = evaluate(cfg, register_records(records), records, map(perfect_output, records))
    assert set(results) == set(MAIN)
    for task, metric in MAIN.items():
        assert results[task][metric] == pytest.approx(100), task
    for metric in ("OIS-F", "AP"):
        assert results["boundary"][metric] == pytest.approx(100)
    for metric in ("ODS-F", "OIS-F", "AP", "AOR", "orientation-accuracy-at-labels"):
        assert results["occlusion"][metric] == pytest.approx(100), metric
    # Only the left sides have direction labels: the strict number takes the others for errors.
    assert results["occlusion"]["ODS-F-strict"] < 60
    assert results["sem_seg"]["mIoU-60"] < 100  # nothing predicts background
    assert math.isnan(results["bbox"]["AP-dog"])
    assert (Path(cfg.OUTPUT_DIR) / "boundary_curves.json").is_file()
    assert "ODS-F" in format_results(results) and "IoU-grass" not in format_results(results)


def test_answers_that_know_nothing_are_near_chance(cfg, register_records):
    records = three_images() * 4
    records = [{**record, "image_id": i} for i, record in enumerate(records)]
    generator = torch.Generator().manual_seed(3)
    outputs = [random_output(generator) for _ in records]
    results = evaluate(cfg, register_records(records), records, outputs)
    for task in ("bbox", "segm", "keypoints"):
        assert results[task]["AP"] < 2, task
    # 1 of 59, 1 of 7; a class in a share p of the pixels has an IoU of p / (1 + (C - 1) p).
    assert results["sem_seg"]["mIoU"] < 2
    assert results["part_seg"]["mIoU"] < 10
    # A thinned random map has a pixel near every label, and far too many others.
    assert results["boundary"]["AP"] < 40
    assert results["boundary"]["ODS-F"] < 45
    assert results["occlusion"]["orientation-accuracy"] == pytest.approx(50, abs=8)
    assert results["occlusion"]["orientation-accuracy-at-labels"] == pytest.approx(50, abs=8)
    # Of these classes, each is in a third or two thirds of the images.
    assert 25 < results["image_labels"]["mAP"] < 75


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (["det"], {"bbox", "segm", "keypoints"}),
        (["seg"], {"sem_seg"}),
        (["parts"], {"part_seg"}),
        (["boundary"], {"boundary"}),
        (["occlusion"], {"occlusion"}),
        (["boundary", "occlusion"], {"boundary", "occlusion"}),
        (["classification"], {"image_labels"}),
    ],
)
def test_tasks_choose_the_metrics(tasks, expected, cfg, register_records):
    records = three_images()
    cfg.TEST.TASKS = tasks
    results = evaluate(cfg, register_records(records), records, map(perfect_output, records))
    assert set(results) == expected


def test_masks_and_joints_can_be_off(cfg, register_records):
    records = three_images()
    cfg.TEST.TASKS = ["det"]
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False
    results = evaluate(cfg, register_records(records), records, map(perfect_output, records))
    assert set(results) == {"bbox"}


def test_there_is_no_panoptic_quality(cfg, register_records, caplog):
    cfg.TEST.PANOPTIC = True
    build_evaluator(cfg, register_records(three_images()), cfg.OUTPUT_DIR)
    assert "TEST.PANOPTIC: no PQ on dataset" in caplog.text


def test_joints_of_mcn(cfg, register_records):
    records = three_images()
    cfg.MODEL.TASKS, cfg.MODEL.KEYPOINT_ON = ["pose"], False
    cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = 14
    results = evaluate(cfg, register_records(records), records, map(perfect_output, records))
    assert set(results) == {"keypoints"}
    assert results["keypoints"]["AP"] == pytest.approx(100)


def test_file_without_joints_has_no_keypoint_metric(cfg, register_records, caplog):
    records = three_images()
    outputs = list(map(perfect_output, records))
    for record in records:
        for annotation in record["annotations"]:
            del annotation["keypoints"]
    with caplog.at_level(logging.INFO):
        results = evaluate(cfg, register_records(records), records, outputs)
    assert set(results) == set(MAIN) - {"keypoints"}
    assert "has no keypoints" in caplog.text


def test_images_without_labels_do_not_count_and_are_counted(cfg, register_records, caplog):
    """A fourth image carries nothing, and whatever is predicted there changes nothing."""
    records = three_images()
    outputs = list(map(perfect_output, records))
    bare = {"file_name": "4.jpg", "image_id": 4, "height": 60, "width": 80}
    records.append(bare)
    outputs.append(random_output(torch.Generator().manual_seed(0)))
    results = evaluate(cfg, register_records(records), records, outputs)
    for task, metric in MAIN.items():
        assert results[task][metric] == pytest.approx(100), task
    assert "1 images" in caplog.text and "no object labels" in caplog.text
    # Image 3 has no people.
    assert "2 images" in caplog.text and "'part_seg'" in caplog.text


def test_missing_output_is_an_error(cfg, register_records):
    records = three_images()
    name = register_records(records)
    for task, output in (("parts", "part_seg"), ("occlusion", "occlusion"), ("seg", "sem_seg")):
        cfg.TEST.TASKS = [task]
        prediction = perfect_output(records[0])
        del prediction[output]
        with pytest.raises(ValueError, match=f"1.jpg.*{output}.*{task}"):
            evaluate(cfg, name, records[:1], [prediction])


def test_missing_masks_are_an_error(cfg, register_records):
    records = three_images()
    cfg.TEST.TASKS = ["det"]
    prediction = perfect_output(records[0])
    prediction["instances"].remove("pred_masks")
    with pytest.raises(ValueError, match=r"1\.jpg.*expected 'pred_masks' for segm"):
        evaluate(cfg, register_records(records), records[:1], [prediction])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
            54,
            "found 59, .*expected 54 .*SEM_SEG_HEAD",
        ),
        (
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
            17,
            "found 14, .*expected 17 .*ROI_KEYPOINT_HEAD.NUM_KEYPOINTS to 14",
        ),
        ("TEST.KEYPOINT_OKS_SIGMAS", [0.1] * 4, "KEYPOINT_OKS_SIGMAS: found 4 values, expected 14"),
        ("TEST.PASCAL_IN_DETAIL.BOUNDARY_THRESHOLDS", 0, "found 0, expected 1 or more"),
    ],
)
def test_config_that_does_not_fit(key, value, message, cfg, register_records):
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        build_evaluator(cfg, register_records(three_images()), cfg.OUTPUT_DIR)


def test_legacy_numbers_beside_the_others(cfg, register_records):
    cfg.TEST.PASCAL_IN_DETAIL.LEGACY = True
    records = three_images()
    results = evaluate(cfg, register_records(records), records, map(perfect_output, records))
    legacy = {"bbox-legacy", "segm-legacy", "keypoints-legacy", "image_labels-legacy"}
    assert set(results) == set(MAIN) | legacy
    assert results["bbox-legacy"]["AP"] == pytest.approx(100)
    assert results["segm-legacy"]["AP-things"] == pytest.approx(100)
    # Grass and sky have masks too, which no detector predicts: 2 of 4 classes.
    assert results["segm-legacy"]["AP"] == pytest.approx(50)
    # 59 classes, of which 4 occur.
    assert results["image_labels-legacy"]["mAP"] == pytest.approx(100 * 4 / 59)
    # The first of three skeletons can never be found. Its detection comes first among equals, so
    # precision is at most 2/3, up to recall 2/3: 67 of 101 points.
    assert results["keypoints-legacy"]["AP"] == pytest.approx(100 * 2 / 3 * 67 / 101)


def test_a_second_round_starts_anew(cfg, register_records):
    records = three_images()
    evaluator = build_evaluator(cfg, register_records(records), cfg.OUTPUT_DIR)
    generator = torch.Generator().manual_seed(0)
    scores = []
    for outputs in ([random_output(generator) for _ in records], map(perfect_output, records)):
        evaluator.reset()
        evaluator.process(inputs_of(records), list(outputs))
        scores.append(evaluator.evaluate())
    for task, metric in MAIN.items():
        assert scores[0][task][metric] < scores[1][task][metric] + 1e-6
        assert scores[1][task][metric] == pytest.approx(100)


def test_person_only_data_set(cfg, register_records):
    """People are class 0 there; the chair is not an object."""
    records = three_images()
    for record in records:
        people = [a for a in record["annotations"] if a["category_id"] != CHAIR]
        record["annotations"] = [{**a, "category_id": 0} for a in people]
    cfg.TEST.TASKS = ["det"]
    name = register_records(records, person_only=True)
    results = evaluate(cfg, name, records, map(perfect_output, records))
    for task in ("bbox", "segm", "keypoints"):
        assert results[task]["AP"] == pytest.approx(100)


def test_joints_of_chairs_are_no_false_people(cfg, register_records):
    records = three_images()
    outputs = list(map(perfect_output, records))
    for output in outputs:
        output["instances"].scores[output["instances"].pred_classes == CHAIR] = 1.0
        output["instances"].pred_keypoints[output["instances"].pred_classes == CHAIR] = 30.0
    results = evaluate(cfg, register_records(records), records, outputs)
    assert results["keypoints"]["AP"] == pytest.approx(100)


def test_unmatched_skeletons_are_to_be_found(cfg, register_records):
    """One person of four has a skeleton without an object; the others are found."""
    records = [detail_record(1, [], []), *three_images()]
    records = [
        {**record, "image_id": i, "file_name": f"{i}.jpg"} for i, record in enumerate(records)
    ]
    person = three_images()[0]["annotations"][0]
    skeleton = {key: person[key] for key in ("bbox", "bbox_mode", "keypoints")}
    records[0]["unmatched_keypoints"] = [skeleton]
    cfg.TEST.TASKS = ["det"]
    results = evaluate(cfg, register_records(records), records, map(perfect_output, records))
    assert results["bbox"]["AP"] == pytest.approx(100)
    # Recall 3/4 at precision 1: recalls 0, .01, ... .75 of 101.
    assert results["keypoints"]["AP"] == pytest.approx(100 * 76 / 101)


def test_curves_are_written(cfg, register_records):
    records = three_images()
    cfg.TEST.PASCAL_IN_DETAIL.BOUNDARY_THRESHOLDS = 9
    evaluate(cfg, register_records(records), records, map(perfect_output, records))
    curves = json.loads((Path(cfg.OUTPUT_DIR) / "boundary_curves.json").read_text())
    np.testing.assert_allclose(curves["thresholds"], np.arange(0.1, 0.95, 0.1))
    assert curves["boundary"]["recall"] == [1.0] * 9
    assert curves["occlusion"]["accuracy"] == [1.0] * 9
