from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from d2_multitask.data.datasets.pascal_in_detail.names import STUFF_CLASSES
from d2_multitask.evaluation.dense.classification import (
    ClassificationEvaluator,
    top_k_accuracy,
    voc_average_precision,
)
from detail_support import CHAIR, GRASS, NUM_CLASSES, PERSON, inputs_of, three_images


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        # Scores 0.9, 0.8, ... in this order.
        pytest.param([1, 1, 0, 0], 1, id="perfect"),
        pytest.param([0, 0, 1, 1], 1 / 2, id="last"),
        # Recall 1/2 at precision 1, recall 1 at 2/3.
        pytest.param([1, 0, 1, 0], (1 + 2 / 3) / 2, id="between"),
        # 1/2 and then 2/3: the highest precision to the right holds.
        pytest.param([0, 1, 1, 0], 2 / 3, id="envelope"),
    ],
)
def test_average_precision_by_hand(present, expected):
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    shuffled = np.array([2, 0, 3, 1])
    found = voc_average_precision(scores[shuffled], np.array(present)[shuffled] > 0)
    assert found == pytest.approx(expected)


def test_equal_scores_have_no_order():
    for present in ([1, 0, 0, 0], [0, 0, 0, 1]):
        assert voc_average_precision(np.zeros(4), np.array(present) > 0) == pytest.approx(1 / 4)


def test_no_image_with_the_class():
    assert math.isnan(voc_average_precision(np.zeros(4), np.zeros(4, bool)))


def evaluate(records, outputs, processed=None):
    evaluator = ClassificationEvaluator("some data", records, STUFF_CLASSES)
    evaluator.process(inputs_of(records if processed is None else processed), outputs)
    return evaluator.evaluate()["image_labels"]


def scores(**classes: float) -> dict[str, torch.Tensor]:
    vector = torch.zeros(NUM_CLASSES)
    for name, value in classes.items():
        vector[STUFF_CLASSES.index(name)] = value
    return {"image_labels": vector}


def test_by_hand():
    """person: images 1, 2; chair: 2, 3; grass: 1; sky: 3."""
    assert (STUFF_CLASSES[PERSON], STUFF_CLASSES[CHAIR]) == ("person", "chair")
    assert STUFF_CLASSES[GRASS] == "grass"
    outputs = [
        scores(person=0.9, chair=0.8, grass=1.0, sky=0.5),
        scores(person=0.3, chair=0.5, grass=0.2, sky=0.6),
        scores(person=0.6, chair=0.4, grass=0.1, sky=0.4),
    ]
    found = evaluate(three_images(), outputs)
    by_hand = {"person": (1 + 2 / 3) / 2, "chair": 2 / 3, "grass": 1, "sky": 1 / 3}
    for name, value in by_hand.items():
        assert found[f"AP-{name}"] == pytest.approx(100 * value), name
    assert math.isnan(found["AP-dog"])
    assert found["mAP"] == pytest.approx(100 * sum(by_hand.values()) / 4)


def test_images_that_are_not_predicted_have_score_0(caplog):
    records = three_images()
    found = evaluate(records, [scores(person=0.9)], processed=records[:1])
    assert "2 labelled images" in caplog.text
    # Image 1 first, then both others at once: recall 1 at precision 2/3.
    assert found["AP-person"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_nan_is_counted(caplog):
    records = three_images()
    outputs = [scores(person=float("nan")), scores(person=0.9), scores(person=0.1)]
    found = evaluate(records, outputs)
    assert "1 predictions of 'image_labels'" in caplog.text
    assert found["AP-person"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_accuracy_is_that_of_topk():
    """Against torch.topk; with equal scores the own class is not the best."""
    generator = np.random.default_rng(0)
    values, classes = generator.random((50, 8)), generator.integers(0, 8, 50)
    for k in (1, 5):
        best = torch.from_numpy(values).topk(k).indices.numpy()
        expected = (best == classes[:, None]).any(1).mean()
        assert top_k_accuracy(values, classes, k) == pytest.approx(expected)
        assert 0 < expected < 1
    assert top_k_accuracy(np.zeros((3, 8)), np.arange(3), 5) == 0
    assert math.isnan(top_k_accuracy(np.zeros((0, 8)), np.zeros(0, int), 1))


def test_one_class_an_image():
    records = [{"image_id": i, "file_name": f"{i}.jpg", "image_labels": [i]} for i in range(4)]
    outputs = [{"image_labels": torch.eye(NUM_CLASSES)[i]} for i in (0, 1, 9, 9)]
    outputs[2]["image_labels"][2] = 0.5
    outputs[3]["image_labels"][:8] = 0.1 + 0.01 * torch.arange(8)  # of 8 the 5th: 6th in all
    outputs[3]["image_labels"][3] = 0.135
    evaluator = ClassificationEvaluator("some data", records, STUFF_CLASSES, single_label=True)
    evaluator.process(records, outputs)
    assert evaluator.evaluate() == {"image_labels": {"top1": 50.0, "top5": 75.0}}
    assert evaluator.metric_names() == ["image_labels/top1", "image_labels/top5"]
    records[1]["image_labels"] = [1, 2]
    with pytest.raises(ValueError, match=r"with 2 classes, expected one.*SINGLE_LABEL"):
        evaluator.evaluate()
