"""The confusion matrix and the metrics from it: by hand, and as Detectron2's evaluator has them."""

from __future__ import annotations

import math
import uuid

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from d2_multitask.evaluation.dense.sem_seg import (
    LabelMapEvaluator,
    MultitaskSemSegEvaluator,
    count_confusion,
    mean_iou_with_background,
)
from evaluation_support import label_scores

# Two rows of five pixels; class 2 is predicted once and never labelled.
LABELS = np.array([[0, 0, 0, 1, 1], [1, 1, 255, 255, 0]], dtype=np.uint8)
PREDICTED = np.array([[0, 0, 1, 1, 1], [1, 2, 0, 1, 0]])


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    return count_confusion(predicted, np.minimum(labels, num_classes), num_classes)


def metrics(labels: np.ndarray, predicted: np.ndarray, names: list[str]) -> dict[str, float]:
    evaluator = LabelMapEvaluator("some data", [], names)
    evaluator.add({}, labels, {"sem_seg": label_scores(predicted, len(names))})
    return evaluator.evaluate()["sem_seg"]


def test_counts_by_hand():
    found = confusion(LABELS, PREDICTED, 3)
    np.testing.assert_array_equal(found.T[:, :3], [[3, 1, 0], [0, 3, 1], [0, 0, 0], [1, 1, 0]])
    assert not found[3].any()


def test_metrics_by_hand():
    """Class 0: 3 of 4 labelled + 0 more; class 1: 3 of 4 + 1 more; class 2 is labelled nowhere."""
    found = metrics(LABELS, PREDICTED, ["a", "b", "c"])
    assert found["IoU-a"] == pytest.approx(100 * 3 / 4)
    assert found["IoU-b"] == pytest.approx(100 * 3 / 5)
    assert math.isnan(found["IoU-c"])
    assert found["mIoU"] == pytest.approx(100 * (0.75 + 0.6) / 2)
    assert found["mACC"] == pytest.approx(75)
    assert found["pACC"] == pytest.approx(100 * 6 / 8)
    assert found["fwIoU"] == pytest.approx(100 * (0.75 + 0.6) / 2)


def test_with_background_by_hand():
    """The two unlabelled pixels are one more class, found nowhere, and errors of classes 0 and 1:
    class 0: 3 / (4 + 1), class 1: 3 / (5 + 1), background 0.
    """
    found = mean_iou_with_background(confusion(LABELS, PREDICTED, 3))
    assert found == pytest.approx((3 / 5 + 3 / 6 + 0) / 3)


def test_without_unlabelled_pixels_background_is_no_class():
    labels = np.array([[0, 1]])
    assert mean_iou_with_background(confusion(labels, labels, 2)) == 1


def test_nothing_labelled():
    found = metrics(np.full((2, 2), 255), np.zeros((2, 2), int), ["a", "b"])
    assert math.isnan(found["IoU-a"]) and math.isnan(found["IoU-b"])
    assert math.isnan(found["mIoU"])


def test_the_numbers_and_files_are_detectron2s(tmp_path):
    """Random maps with ignored pixels, through both evaluators: equal to the last bit."""
    generator = np.random.default_rng(0)
    names = ["a", "b", "c", "d"]
    records, outputs = [], []
    for number in range(3):
        labels = generator.integers(0, 4, (6, 8), dtype=np.uint8).repeat(5, 0).repeat(5, 1)
        labels[generator.random(labels.shape) < 0.1] = 255
        path = tmp_path / f"{number}.png"
        Image.fromarray(labels).save(path)
        size = {"height": 30, "width": 40, "image_id": number}
        records.append({"file_name": f"{number}.jpg", "sem_seg_file_name": str(path), **size})
        noise = torch.from_numpy(generator.normal(size=(4, 30, 40)))
        outputs.append({"sem_seg": label_scores(labels, 4) + noise})
    dataset = f"confusion_test_{uuid.uuid4().hex}"
    DatasetCatalog.register(dataset, lambda: records)
    MetadataCatalog.get(dataset).set(stuff_classes=names, ignore_label=255)
    theirs = SemSegEvaluator(
        dataset,
        output_dir=str(tmp_path / "theirs"),
        sem_seg_loading_fn=lambda file, dtype: np.array(Image.open(file), dtype=dtype),
    )
    ours = MultitaskSemSegEvaluator(dataset, output_dir=str(tmp_path / "ours"))
    results = []
    for evaluator in (theirs, ours):
        evaluator.reset()
        evaluator.process(records, outputs)
        results.append(dict(evaluator.evaluate()["sem_seg"]))
    DatasetCatalog.remove(dataset)
    MetadataCatalog.remove(dataset)
    assert results[0] == results[1]
    assert "BoundaryIoU-a" in results[0] and 0 < results[0]["mIoU"] < 100
    files = ["ours", "theirs"]
    ours, theirs = ((tmp_path / f / "sem_seg_predictions.json").read_text() for f in files)
    assert ours == theirs
