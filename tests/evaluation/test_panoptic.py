"""Panoptic quality; golden numbers of panopticapi's own code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from d2_multitask.data.labels.masks import encode
from d2_multitask.evaluation.panoptic import PanopticEvaluator, panoptic_counts, panoptic_quality

# cocodataset/panopticapi at 1ad5afa, `pq_compute_single_core` and `pq_average` on PNG files of
# `random_scene(0)` to `random_scene(19)`; the third category is stuff.
COUNTS = [
    [17.50032715563058, 26, 3, 25],
    [20.374223034608406, 27, 6, 17],
    [30.832820714366264, 45, 18, 17],
]
QUALITY = {"PQ": 48.66779695407139, "SQ": 70.42880509240067, "RQ": 69.04329004329006}
STUFF_QUALITY = {"PQ": 49.33251314298602, "SQ": 68.51737936525836, "RQ": 72.0}


def random_scene(seed: int) -> tuple[np.ndarray, list[int], np.ndarray, dict[int, int]]:
    """Labelled and predicted segments of three categories: rectangles, and the same ones moved."""
    rng = np.random.default_rng(seed)
    labels, predicted = np.ones((60, 80), np.int64), np.zeros((60, 80), np.int64)
    labels[:, 70:] = 0
    categories, found = [], {}
    for number in range(8):
        y, x = rng.integers(0, 40), rng.integers(0, 70)
        h, w = rng.integers(8, 24, 2)
        labels[y : y + h, x : x + w] = number + 2
        categories.append(int(rng.integers(3)))
        if rng.random() < 0.8:
            dy, dx = rng.integers(-2, 3, 2)
            predicted[max(y + dy, 0) : y + dy + h, max(x + dx, 0) : x + dx + w] = 10 * number + 5
            found[10 * number + 5] = categories[-1] if rng.random() < 0.9 else 2
    labels[:15, 72:] = 0
    predicted[:12, 71:] = 99
    found[99] = 1
    return labels, categories, predicted, found


def test_counts_are_panopticapis() -> None:
    counts = sum(panoptic_counts(*random_scene(seed), 3) for seed in range(20))
    np.testing.assert_allclose(counts, COUNTS, rtol=1e-12)
    assert panoptic_quality(counts) == pytest.approx(QUALITY)
    assert panoptic_quality(counts[2:]) == pytest.approx(STUFF_QUALITY)


def test_without_any_segment() -> None:
    assert all(np.isnan(value) for value in panoptic_quality(np.zeros((2, 4))).values())


THINGS, STUFF = ["cat", "person"], ["background", "sky", "person", "cat"]


def a_record() -> tuple[dict[str, Any], np.ndarray]:
    """A large person, a cat before it, a crowd of people, sky; the semantic map (20, 30)."""
    classes = np.zeros((20, 30), np.uint8)
    classes[:4] = 1
    masks = np.zeros((3, 20, 30), bool)
    masks[0, 4:18, 2:12] = masks[1, 10:15, 6:10] = masks[2, 5:20, 20:30] = True
    annotations = [
        {"segmentation": encode(mask), "category_id": category, "iscrowd": crowd}
        for mask, category, crowd in zip(masks, [1, 0, 1], [0, 0, 1], strict=True)
    ]
    for mask, class_id in zip(masks, [2, 3, 2], strict=True):
        classes[mask] = class_id
    segments = [{"category_id": c, "segmentation": encode(classes == c)} for c in range(4)]
    record = {"file_name": "a.jpg", "image_id": 1, "height": 20, "width": 30}
    return {**record, "annotations": annotations, "sem_seg_segments": segments}, masks


def evaluate(ids: np.ndarray, segments: list[dict[str, Any]]) -> dict[str, float]:
    record, _ = a_record()
    evaluator = PanopticEvaluator("cats", [record], THINGS, STUFF, distributed=False)
    evaluator.process([record], [{"panoptic_seg": (torch.from_numpy(ids), segments)}])
    return evaluator.evaluate()["panoptic_seg"]


def test_an_evaluation() -> None:
    _, masks = a_record()
    ids = np.zeros((20, 30), np.int32)
    ids[:4] = 4
    ids[masks[0]] = 1
    ids[masks[1]] = 2
    ids[masks[2]] = 3  # in the crowd: neither right nor wrong
    person, cat = {"isthing": True, "category_id": 1}, {"isthing": True, "category_id": 0}
    sky = {"id": 4, "isthing": False, "category_id": 1}
    segments = [{"id": 1, **person}, {"id": 2, **cat}, {"id": 3, **person}, sky]
    assert evaluate(ids, segments) == dict.fromkeys(
        [name + suffix for suffix in ("", "_th", "_st") for name in ("PQ", "SQ", "RQ")], 100.0
    )
    ids[15:19, 13:17] = 5  # a person on labelled background
    assert evaluate(ids, [*segments, {"id": 5, **person}])["PQ_th"] == pytest.approx(50 + 50 / 1.5)


def test_a_result_without_segments() -> None:
    record, _ = a_record()
    evaluator = PanopticEvaluator("cats", [record], THINGS, STUFF, distributed=False)
    with pytest.raises(ValueError, match=r"a\.jpg: .* expected 'panoptic_seg'"):
        evaluator.process([record], [{"sem_seg": torch.zeros(4, 20, 30)}])
    wrong = {"panoptic_seg": (torch.zeros(2, 2, dtype=torch.int32), [])}
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected \(20, 30\)"):
        evaluator.process([record], [wrong])


def test_an_image_without_labelled_objects_is_not_counted(caplog) -> None:
    record, _ = a_record()
    del record["annotations"]
    evaluator = PanopticEvaluator("cats", [record], THINGS, STUFF, distributed=False)
    evaluator.process([record], [{}])
    assert np.isnan(evaluator.evaluate()["panoptic_seg"]["PQ"])
    assert "1 images of 'cats' have no label for 'panoptic_seg'" in caplog.text
