"""Recall without classes: worked out by hand, and as pycocotools prints it."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from detectron2.structures import Boxes, Instances
from pycocotools.cocoeval import COCOeval
from torch import tensor

from d2_multitask.data.labels.masks import encode
from d2_multitask.evaluation.coco.backends import as_coco
from d2_multitask.evaluation.coco.class_agnostic import (
    ClassAgnosticEvaluator,
    class_agnostic_recall,
    class_agnostic_scores,
)
from evaluation_support import HEIGHT, WIDTH, annotation, coco_json

OBJECTS = [
    annotation(1, 1, [0, 0, 20, 20]),
    annotation(2, 1, [40, 0, 20, 20]),
    annotation(3, 2, [10, 10, 20, 20]),
]


def result(image_id, box, score, **fields):
    x, y, w, h = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + h, x : x + w] = True
    return {"image_id": image_id, "score": score, "segmentation": encode(mask), **fields}


def test_by_hand():
    results = [
        result(1, [40, 0, 20, 20], 0.9),  # exact: found at all ten thresholds
        result(1, [0, 0, 20, 13], 0.8),  # IoU .65: found at .5, .55, .6, .65
        result(2, [60, 0, 10, 10], 0.9),  # nothing there
        result(2, [10, 10, 20, 16], 0.5),  # IoU .8: found at .5 ... .8, seven thresholds
    ]
    recall = class_agnostic_recall(coco_json(OBJECTS), results)
    assert recall["AR@1"] == pytest.approx(100 * 10 / 30)
    assert recall["AR@10"] == recall["AR@100"] == pytest.approx(100 * (10 + 4 + 7) / 30)


def test_classes_do_not_count():
    exact = [result(1, [0, 0, 20, 20], 0.9, category_id=77)]
    assert class_agnostic_recall(coco_json(OBJECTS), exact)["AR@1"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("metric", ["segm", "bbox"])
def test_as_pycocotools(metric):
    generator = np.random.default_rng(0)
    results = []
    for image_id in (1, 1, 1, 2, 2):
        x, y = (int(v) for v in generator.integers(0, 15, 2))
        box = [x, y, 22, 19]
        found = result(image_id, box, float(generator.random()), category_id=1)
        results.append({**found, "bbox": box} if metric == "bbox" else found)
    labels = as_coco(coco_json(OBJECTS))
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCOeval(labels, labels.loadRes([dict(r) for r in results]), metric)
        theirs.params.useCats = 0
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    ours = class_agnostic_scores(coco_json(OBJECTS), results, metric)
    expected = [*theirs.stats[6:9], *theirs.stats[:2]]  # AR@1, @10, @100, AP, AP50
    assert list(ours.values()) == pytest.approx([100 * v for v in expected])
    assert min(ours.values()) > 0


def test_nothing_found_and_nothing_to_find():
    assert class_agnostic_recall(coco_json(OBJECTS), [])["AR@100"] == 0
    crowd = [annotation(1, 1, [0, 0, 9, 9], iscrowd=1)]
    nothing = class_agnostic_recall(coco_json(crowd), [result(1, [0, 0, 9, 9], 1.0)])
    assert np.isnan(nothing["AR@1"])


def test_as_an_evaluator_of_a_detector(register):
    name = register(coco_json(OBJECTS))
    evaluator = ClassAgnosticEvaluator(name, ("bbox",))
    boxes = Boxes(tensor([[40.0, 0, 60, 20]]))
    found = Instances(
        (HEIGHT, WIDTH), pred_boxes=boxes, scores=tensor([0.5]), pred_classes=tensor([5])
    )
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    scores = evaluator.evaluate()
    assert scores["bbox_class_agnostic"]["AR@1"] == pytest.approx(100 / 3)
    assert evaluator.metric_names() == [
        f"bbox_class_agnostic/{n}" for n in ("AR@1", "AR@10", "AR@100")
    ]
    evaluator.reset()
    assert evaluator.evaluate()["bbox_class_agnostic"]["AR@1"] == 0
