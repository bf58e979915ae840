"""Tables of objects, against pycocotools and counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from d2_multitask.reports.objects import ObjectAnalysis, confusion_table
from evaluation_support import annotation, coco_json, inputs_of, instances

NUM_IMAGES = 12


@pytest.fixture
def evaluator(register):
    """Two classes, random objects, predictions that are shifted, doubled, missed or invented."""
    random = np.random.default_rng(0)
    annotations = []
    for number in range(1, 31):
        box = [float(x) for x in (*random.integers(0, 40, 2), *random.integers(10, 20, 2))]
        image_id, category = int(random.integers(1, NUM_IMAGES)), int(random.integers(1, 3))
        annotations.append(annotation(number, image_id, box, category_id=category))
    content = coco_json(annotations, NUM_IMAGES)
    content["categories"].insert(0, {"id": 2, "name": "dog"})  # not in the order of the ids
    name = register(content)
    evaluator = MultitaskCOCOEvaluator(name, ("bbox",), output_dir=None, backend="pycocotools")
    evaluator.reset()
    for input_ in inputs_of(name):
        objects = [a for a in annotations if a["image_id"] == input_["image_id"]]
        boxes = [a["bbox"] for a in objects] * 2 + [[1.0, 1.0, 5.0, 5.0]]
        shift = random.normal(0, 2, (len(boxes), 4)) * [1, 1, 0, 0]
        found = instances((np.array(boxes) + shift).tolist())
        found.scores = torch.from_numpy(random.uniform(0.05, 1, len(boxes)).astype(np.float32))
        classes = [a["category_id"] - 1 for a in objects] * 2 + [0]
        found.pred_classes = torch.tensor(classes) ^ torch.from_numpy(
            (random.uniform(size=len(classes)) < 0.2).astype(np.int64)
        )
        evaluator.process([input_], [{"instances": found}])
    evaluator.results = evaluator.evaluate()
    return evaluator


def table(section, start: str):
    return next(t for t in section.tables if t.caption.startswith(start))


def test_each_class_has_pycocotools_numbers(evaluator):
    section = ObjectAnalysis(evaluator).section("bbox")
    rows = table(section, "Each class").rows
    expected = evaluator.results["bbox"]
    for row in rows:
        assert row[1] == pytest.approx(expected[f"AP-{row[0]}"])
    means = np.array([row[1:4] for row in rows], float).mean(0)
    assert means == pytest.approx([expected[m] for m in ("AP", "AP50", "AP75")])
    assert sum(row[-2] for row in rows) == 30


def test_slices_are_pycocotools_of_their_images_alone(evaluator):
    section = ObjectAnalysis(evaluator).section("bbox")
    for caption in ("AP by: Objects", "AP by: Largest"):
        rows = table(section, caption).rows
        assert len(rows) > 1 and sum(row[1] for row in rows) == len(
            {a["image_id"] for a in evaluator.ground_truth["annotations"]}
        )
    counts = {}
    for entry in evaluator.ground_truth["annotations"]:
        counts[entry["image_id"]] = counts.get(entry["image_id"], 0) + 1
    chosen = [i for i, n in counts.items() if 2 <= n < 4]
    row = next(r for r in table(section, "AP by: Objects").rows if r[0] == "2 to 3")
    expected = evaluator.evaluate(chosen)["bbox"]
    assert row[2:] == pytest.approx([expected[m] for m in ("AP", "AP50", "AP75")])


def test_calibration_is_the_share_of_matches_in_each_bin(evaluator):
    analysis = ObjectAnalysis(evaluator)
    status = analysis.evaluated("bbox").image_diagnostics(iou_thr=0.5)["dt_status"]
    scores = np.array([evaluator.found[i - 1]["score"] for i in sorted(status)])
    right = np.array([status[i] == "tp" for i in sorted(status)])
    for bin_, count, mean, share in table(analysis.section("bbox"), "Calibration").rows:
        low, high = map(float, bin_.split(" to "))
        inside = (scores > low) & (scores <= high)
        assert count == inside.sum()
        assert mean == pytest.approx(100 * scores[inside].mean(), abs=1e-3)
        assert share == pytest.approx(100 * right[inside].mean())


def test_confusion_counts_each_label_and_each_confident_prediction_once(evaluator):
    rows = table(ObjectAnalysis(evaluator).section("bbox"), "Labelled (rows)").rows
    counts = np.array([row[1:] for row in rows])
    labels = [a["category_id"] for a in evaluator.ground_truth["annotations"]]
    assert counts[:2].sum(1).tolist() == [labels.count(1), labels.count(2)]
    confident = [f["category_id"] for f in evaluator.found if f["score"] >= 0.3]
    assert counts[:, :2].sum(0).tolist() == [confident.count(1), confident.count(2)]
    assert counts[0, 1] + counts[1, 0] > 0  # classes were exchanged


def test_planted_kinds_of_errors(register):
    """TIDE: one box found twice, one shifted, one invented, one missed."""
    boxes = [[5, 5, 20, 20], [40, 5, 20, 20], [5, 35, 20, 20]]
    name = register(coco_json([annotation(i, 1, b) for i, b in enumerate(boxes, 1)], 1))
    evaluator = MultitaskCOCOEvaluator(name, ("bbox",), output_dir=None)
    evaluator.reset()
    found = instances([boxes[0], boxes[0], [48, 5, 20, 20], [60, 45, 10, 10]])
    found.scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    evaluator.process(inputs_of(name), [{"instances": found}])
    evaluator.evaluate()
    section = ObjectAnalysis(evaluator).section("bbox")
    counts = {row[0]: row[1] for row in table(section, "Kinds").rows}
    assert counts["found twice"] == counts["place wrong"] == counts["nothing is there"] == 1
    assert counts["not found"] == 1
    errors = table(section, "Labels that may be wrong").rows
    assert [row[:4] for row in errors] == [["1", "no label", "", "person"]]
    worst = ObjectAnalysis(evaluator).worst_images("bbox")
    assert [(round(f1), i) for f1, i, _ in worst] == [(29, 1)]  # 2 * 1 / (2 * 1 + 3 + 2)


def test_a_crowd_is_no_object_of_the_image(register):
    boxes = [annotation(1, 1, [5, 5, 20, 20]), annotation(2, 1, [40, 5, 20, 20], iscrowd=1)]
    evaluator = MultitaskCOCOEvaluator(register(coco_json(boxes, 1)), ("bbox",), output_dir=None)
    evaluator.reset()
    evaluator.evaluate()
    rows = table(ObjectAnalysis(evaluator).section("bbox"), "AP by: Objects").rows
    assert [row[:2] for row in rows] == [["1", 1]]


def test_of_many_classes_the_largest_errors_are_listed():
    counts = np.diag(np.full(30, 9))
    counts[3, 7], counts[8, 1] = 5, 4
    found = confusion_table(counts, [f"c{i}" for i in range(30)], "Confusion")
    assert found.rows == [["c3", "c7", 5], ["c8", "c1", 4]]
