"""The official code's numbers: from its own small result files, by hand, and on its real boxes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from d2_multitask.evaluation.dense.classification import voc_average_precision
from d2_multitask.evaluation.legacy import (
    legacy_keypoints,
    legacy_masks,
    official_box_overlap,
    official_detection,
    official_keypoint_similarity,
    official_mean_ap,
    official_objectness,
)
from detail_support import CHAIR, GRASS, PERSON, detail_record

BOAT, CHAIRS, TRAIN, TV = range(4)
# Real labels of four images, and the APs that the official code gives for changed copies of them.
LABELS = {
    (2008000002, TV): [[32, 10, 416, 286]],
    (2008000070, TV): [[179, 258, 33, 33]],
    (2008000070, CHAIRS): [[258, 246, 110, 128], [362, 244, 80, 107]],
    (2008000140, BOAT): [[2, 399, 213, 69], [251, 442, 122, 25], [204, 446, 47, 20]],
    (2008000470, TRAIN): [[0, 0, 335, 331]],
}
AT = {0.95: 9, 0.75: 5, 0.5: 0}


def perfect(score: float = 1.0) -> dict:
    return {key: [(box, score) for box in boxes] for key, boxes in LABELS.items()}


def official(detections):
    return official_detection(LABELS, detections, official_box_overlap, 4)


def test_perfect_boxes_and_one_more():
    detections = perfect()
    detections[2008000140, BOAT].append(([104, 446, 47, 20], 0.1))
    result = official(detections)
    np.testing.assert_allclose(result.ap[:, :, -1], 1)
    for overlap in AT.values():
        expected = [0.33663366, 0.5049505, 1, 1]
        np.testing.assert_allclose(result.ap[overlap, :, 0], expected, atol=1e-8)
    recall = official_objectness(LABELS, detections).recall[:, 0]
    np.testing.assert_allclose(recall[:, 0], 0.5)
    np.testing.assert_allclose(recall[:, -1], 1)


def test_shrunken_boxes():
    detections = {
        (2008000002, TV): [([32, 10, 316, 286], 1.0)],
        (2008000070, TV): [([179, 258, 23, 33], 1.0)],
        **{key: value for key, value in perfect().items() if key[1] != TV},
    }
    ap = official(detections).ap[:, TV, -1]
    np.testing.assert_allclose(ap[[AT[0.95], AT[0.75], AT[0.5]]], [0, 0.5049505, 1], atol=1e-8)
    recall = official_objectness(LABELS, detections).recall[:, 0]
    np.testing.assert_allclose(recall[[AT[0.95], AT[0.5]], -1], [0.75, 1])
    np.testing.assert_allclose(recall[[AT[0.95], AT[0.5]], 0], [0.25, 0.5])


def test_a_box_of_the_wrong_class():
    detections = perfect(0.8)
    detections[2008000002, BOAT] = [(detections.pop((2008000002, TV))[0][0], 1.0)]
    ap = official(detections).ap[:, :, -1]
    np.testing.assert_allclose(ap[:, BOAT], 0.75)
    np.testing.assert_allclose(ap[:, TV], 0.5049505, atol=1e-8)
    boats = LABELS[2008000140, BOAT]
    detections[2008000140, BOAT] = list(zip(boats, (1.0, 0.8, 0.6), strict=True))
    detections[2008000002, BOAT] = [(LABELS[2008000002, TV][0], 0.7)]
    np.testing.assert_allclose(official(detections).ap[:, BOAT, -1], 0.91584158, atol=1e-8)


def test_boxes_apart_in_both_directions_overlap():
    """By hand: 10x10 boxes, 20 apart in x and y: (-20)(-20) = 400 of 100 + 100 - 400 < 0; apart by
    5: 25 / 175. Apart in one direction only: 0.
    """
    overlap = official_box_overlap([[0, 0, 10, 10]], [[15, 15, 10, 10], [15, 0, 10, 10]])
    np.testing.assert_allclose(overlap, [[25 / 175, 0]])


@pytest.mark.skipif(
    not os.environ.get("D2_MULTITASK_DETAIL_API"),
    reason="D2_MULTITASK_DETAIL_API: a copy of github.com/zhanghang1989/detail-api",
)
def test_perfect_boxes_of_1001_real_images():
    """The recalls in the official notebook, below 1 for the labels themselves."""
    path = Path(os.environ["D2_MULTITASK_DETAIL_API"], "res", "huge_gt.json")
    labels: dict = {}
    for entry in json.loads(path.read_text()):
        labels.setdefault((entry["image_id"], 0), []).append(entry["bbox"])
    detections = {key: [(box, 100.0) for box in boxes] for key, boxes in labels.items()}
    recall = official_objectness(labels, detections).recall[:, 0, -1]
    assert recall[AT[0.5]] == pytest.approx(0.997390, abs=5e-7)
    assert recall[AT[0.95]] == pytest.approx(0.997017, abs=5e-7)


def results_of(annotations, keypoints=None):
    """COCO results with one guess for each label, all of one score."""
    results: dict = {}
    for index, annotation in enumerate(annotations):
        joints = annotation["keypoints"] if keypoints is None else keypoints[index]
        result = {"keypoints": joints, "score": 1.0}
        results.setdefault(annotation["image_id"], []).append(result)
    return results


def people(number: int, random: np.random.Generator) -> list[dict]:
    """One large person an image: all joints in a box of 150-450 x 200-370 pixels."""
    annotations = []
    for image_id in range(number):
        size = random.uniform((150, 200), (450, 370))
        corner = random.uniform(0, 1, 2) * ((500, 375) - size)
        joints = np.c_[corner + random.random((14, 2)) * size, np.full(14, 2)]
        annotation = {"image_id": image_id, "bbox": [*corner, *size], "keypoints": joints.ravel()}
        annotations.append({**annotation, "num_keypoints": 14, "segmentation": {}})
    return annotations


def test_perfect_joints_do_not_get_all():
    """The first skeleton reads as not matched, so recall ends below 1: 100 of 101 points."""
    annotations = people(1000, np.random.default_rng(0))
    found = legacy_keypoints(annotations, results_of(annotations))
    # The wrong one comes first among equals, so precision is 999 / 1000 everywhere.
    assert found["AP"] == pytest.approx(100 * 100 / 101 * 999 / 1000)
    assert found["AP"] == pytest.approx(99.0, abs=0.1)


def test_random_joints_look_good():
    """Uniformly random joints reach an official AP of .471 on the real data; so they do here, with
    another mixture of boxes, and not with COCO's sigmas.
    """
    random = np.random.default_rng(0)
    annotations = people(400, random)
    guesses = [np.c_[random.uniform(0, 400, (14, 2)), np.full(14, 2)] for _ in annotations]
    found = legacy_keypoints(annotations, results_of(annotations, [g.ravel() for g in guesses]))
    assert 25 < found["AP"] < 65
    assert found["AP50"] > 60
    sigmas = np.array([0.079] * 2 + [0.079, 0.072, 0.062, 0.107, 0.087, 0.089] * 2)
    strict = [
        np.exp(
            -((g[:, :2] - a["keypoints"].reshape(14, 3)[:, :2]) ** 2).sum(1)
            / (2 * (2 * sigmas) ** 2 * a["bbox"][2] * a["bbox"][3])
        ).mean()
        for g, a in zip(guesses, annotations, strict=True)
    ]
    assert np.mean(np.array(strict) > 0.5) < 0.02


def test_half_a_box_off_is_similar():
    """By hand: all joints off by half the side of a square box: exp(-(s/2)^2 / s^2 / 2) = .88."""
    labels = np.zeros((1, 14, 3))
    labels[..., 2] = 1
    found = np.tile([50.0, 0.0], (1, 14, 1))
    similarity = official_keypoint_similarity(labels, np.array([[0, 0, 100.0, 100.0]]), found)
    assert similarity.item() == pytest.approx(np.exp(-1 / 8))
    assert similarity.item() == pytest.approx(0.88, abs=0.005)


def test_images_without_a_mask_of_a_person_do_not_count():
    annotations = people(20, np.random.default_rng(1))
    before = legacy_keypoints(annotations, results_of(annotations))
    extra = {**annotations[3], "image_id": 99}
    del extra["segmentation"]
    after = legacy_keypoints([*annotations, extra], results_of(annotations))
    assert before == after


def test_masks_are_painted():
    """The second of two overlapping people hides half of the first; grass is an instance too."""
    record = detail_record(
        1, [(PERSON, (0, 0, 20, 20)), (PERSON, (10, 0, 20, 20)), (CHAIR, (0, 0, 5, 5))], []
    )
    predictions = [
        {"category_id": a["category_id"], "segmentation": a["segmentation"], "score": 1.0}
        for a in record["annotations"]
    ]
    found = legacy_masks([record], {1: predictions})
    # The first person's mask has an IoU of 200 / 400 with what is left of it: found at .5 alone.
    assert found["AP50"] == pytest.approx(100)
    # Of equal scores the first comes first, and is wrong: precision 1/2 up to recall 1/2.
    assert found["AP75"] == pytest.approx(100 * (1 + 51 / 101 / 2) / 2)
    record["sem_seg_segments"] += detail_record(1, [], [(GRASS, (0, 40, 80, 20))])[
        "sem_seg_segments"
    ]
    with_grass = legacy_masks([record], {1: predictions})
    assert with_grass["AP50"] == pytest.approx(200 / 3)
    assert with_grass["AP-things"] == pytest.approx(found["AP"])


def test_classification():
    """By hand: classes found perfectly, not at all, and never shown."""
    present = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]]) > 0
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.9, 0.5], [0.1, 0.8, 0.5]])
    assert official_mean_ap(scores, present) == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert [voc_average_precision(s, p) for s, p in zip(scores.T, present.T, strict=True)][
        :2
    ] == pytest.approx([1, 1 / 3])
