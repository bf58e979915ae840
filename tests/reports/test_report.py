"""Whole reports: of a small COCO set and of all eight tasks of PASCAL in Detail."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from d2_multitask.data.datasets.label_maps import LabelMap
from d2_multitask.engine.trainer import MultitaskTrainer
from d2_multitask.evaluation.build import build_evaluator
from d2_multitask.reports.images import NUM_WORST, WorstImages, score_of
from detail_support import perfect_output, random_output, three_images
from evaluation_support import JOINTS, coco_json, inputs_of, perfect_outputs, two_images

TITLES = r"<h2>([^<]+)</h2>"


def evaluate(evaluator, name, outputs):
    evaluator.reset()
    for input_, output in zip(inputs_of(name), outputs, strict=True):
        evaluator.process([input_], [output])
    return evaluator.evaluate()


def read(cfg, suffix: str) -> str:
    return (Path(cfg.OUTPUT_DIR) / f"report{suffix}").read_text(encoding="utf-8")


def test_the_results_are_those_without_a_report(cfg, register):
    name = register(two_images())
    cfg.DATASETS.TEST = (name,)
    outputs = perfect_outputs(two_images())
    found = evaluate(MultitaskTrainer.build_evaluator(cfg, name), name, outputs)
    expected = evaluate(build_evaluator(cfg, name, cfg.OUTPUT_DIR), name, outputs)
    np.testing.assert_equal(dict(found), dict(expected))
    page = read(cfg, ".html")
    assert re.findall(TITLES, page) == [
        "Metrics", "Boxes", "Keypoints", "Semantic segmentation",
    ]  # fmt: skip
    assert page.count("<img") == 2  # semantic maps; no object is missed or wrong
    assert "| person | 100.0 | 100.0 | 100.0 |" in read(cfg, ".md")


def test_keypoints_in_the_order_and_with_the_names_of_the_dataset(cfg, register):
    """The network has one keypoint more, in the opposite order."""
    joints = ("extra", *JOINTS[::-1])
    name = register(two_images(), label_map=LabelMap(keypoint_names=joints))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = len(joints)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.08] * len(joints)
    outputs = perfect_outputs(two_images())
    outputs[0]["instances"] = outputs[0]["instances"][:1]  # one is missed: a picture is drawn
    for output in outputs:
        points = output["instances"].pred_keypoints.flip(1)
        points[:, 0] += 500  # of the network's first, the dataset's last
        output["instances"].pred_keypoints = torch.cat([points[:, :1], points], 1)
    evaluate(MultitaskTrainer.build_evaluator(cfg, name), name, outputs)
    text = read(cfg, ".md")
    for joint in JOINTS[:-1]:
        assert f"| {joint} | 100.0 | 0.0 | 0.0 | 0.0 | 0.0 | 2 |" in text
    assert f"| {JOINTS[-1]} | 0.0 | 0.0 | 0.0 | 0.0 | 100.0 | 2 |" in text


def test_objects_without_any_prediction(cfg, register):
    name = register(two_images())
    cfg.DATASETS.TEST = (name,)
    outputs = perfect_outputs(two_images())
    for output in outputs:
        output["instances"] = output["instances"][:0]
    evaluate(MultitaskTrainer.build_evaluator(cfg, name), name, outputs)
    text = read(cfg, ".md")
    assert "- 1: F1 0: 0 found, 2 missed, 0 wrong" in text
    assert "not found | 3 |" in text


def test_a_dataset_without_objects(cfg, register):
    name = register(coco_json([], 2))
    cfg.DATASETS.TEST = (name,)
    outputs = perfect_outputs(two_images())
    evaluate(MultitaskTrainer.build_evaluator(cfg, name), name, outputs)
    assert "Boxes" in read(cfg, ".md")


@pytest.mark.parametrize("perfect", [True, False])
def test_eight_tasks(cfg, register_detail, perfect):
    records = three_images()
    name = register_detail(records)
    cfg.DATASETS.TEST = (name, "another")
    cfg.MODEL.META_ARCHITECTURE = "MultitaskRCNN"
    cfg.MODEL.TASKS = ["seg", "det", "parts", "boundary", "occlusion", "classification"]
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 59
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 14
    cfg.TEST.KEYPOINT_OKS_SIGMAS = []
    cfg.TEST.PASCAL_IN_DETAIL.NUM_WORKERS = 0
    generator = torch.Generator().manual_seed(0)
    outputs = [perfect_output(r) if perfect else random_output(generator) for r in records]
    evaluate(MultitaskTrainer.build_evaluator(cfg, name), name, outputs)
    page = (Path(cfg.OUTPUT_DIR) / f"report_{name}.html").read_text(encoding="utf-8")
    titles = ["Metrics", "Boxes", "Instance masks", "Keypoints", "Semantic segmentation", "Parts"]
    assert set(re.findall(TITLES, page)) == {*titles, "Boundaries", "Occlusion", "Image labels"}
    assert "Precision and recall over the thresholds" in page


def test_the_lowest_scores_are_kept():
    worst = WorstImages(score_of("foreground"))
    labels = np.zeros((4, 10), np.uint8)
    labels[:, :] = 1
    for number in range(3 * NUM_WORST):
        share = (7 * number) % (3 * NUM_WORST)
        probability = torch.zeros(40)
        probability[: share * 40 // (3 * NUM_WORST)] = 1
        record = {"file_name": f"{number}.png", "image_id": number}
        worst(record, labels, {"foreground": probability.view(4, 10)})
    scores = [kept[0] for kept in WorstImages.worst(worst.kept)]
    every = sorted((s * 40 // (3 * NUM_WORST)) / 40 for s in range(3 * NUM_WORST))
    assert scores == pytest.approx(every[:NUM_WORST])


def test_equal_scores_are_kept_by_the_id_in_any_order():
    labels, found = np.ones((2, 2), np.uint8), torch.zeros(2, 2)

    def ids(order) -> list[int]:
        worst = WorstImages(score_of("foreground"))
        for number in order:
            worst({"file_name": "a.png", "image_id": number}, labels, {"foreground": found})
        return [kept[1] for kept in WorstImages.worst(worst.kept)]

    numbers = list(range(100, 100 + 2 * NUM_WORST))
    assert ids(numbers) == ids(numbers[::-1]) and len(ids(numbers)) == NUM_WORST


def test_classes_that_the_labels_hide_are_background():
    labels = np.zeros((2, 2), np.uint8)
    scores = torch.tensor([0.1, 0.2, 0.7])[:, None, None].expand(3, 2, 2)
    record = {"file_name": "a.png"}
    score = score_of("sem_seg")
    assert score(record, labels, {"sem_seg": scores})[0] == 0
    record["sem_seg_hidden"] = [False, False, True]
    assert score(record, labels, {"sem_seg": scores})[0] == 1
