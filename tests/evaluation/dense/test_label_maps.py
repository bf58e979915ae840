from __future__ import annotations

import numpy as np
import pytest
import torch

from d2_multitask.data.datasets.pascal_in_detail.names import PART_CLASSES, STUFF_CLASSES
from d2_multitask.evaluation.dense.sem_seg import PartsEvaluator, SemanticEvaluator
from detail_support import (
    GRASS,
    HEIGHT,
    NUM_CLASSES,
    NUM_PARTS,
    PERSON,
    WIDTH,
    detail_record,
    inputs_of,
    one_hot,
    rectangle,
    to_rle,
)


def evaluate(evaluator, record, output):
    evaluator.process(inputs_of([record]), [output])
    return evaluator.evaluate()[evaluator.output_name]


def test_semantic_classes_by_hand():
    """A person of 20x20 in front of grass, 20 rows high; the prediction is 10 columns off."""
    record = detail_record(1, [(PERSON, (20, 30, 20, 20))], [(GRASS, (0, 40, WIDTH, 20))])
    predicted = np.full((HEIGHT, WIDTH), GRASS)
    predicted[rectangle((30, 30, 20, 20)) > 0] = PERSON
    evaluator = SemanticEvaluator("some data", [record], STUFF_CLASSES)
    found = evaluate(evaluator, record, {"sem_seg": one_hot(predicted, NUM_CLASSES)})
    # Labelled: person 400, grass 1600 - 200 hidden. Predicted person: 200 right, 100 on grass and
    # 100 where nothing is labelled. Predicted grass: 200 on the person, 1300 on grass.
    person, grass = 200 / (400 + 100), 1300 / (1400 + 200)
    assert found["IoU-person"] == pytest.approx(100 * person)
    assert found["IoU-grass"] == pytest.approx(100 * grass)
    assert found["mIoU"] == pytest.approx(100 * (person + grass) / 2)
    # The 80 * 60 - 1800 pixels without a label are errors of what is predicted there.
    unlabelled = WIDTH * HEIGHT - 1800
    with_background = 200 / (400 + 200) + 1300 / (1400 + 200 + unlabelled - 100)
    assert found["mIoU-60"] == pytest.approx(100 * with_background / 3)


def test_parts_by_hand():
    """Head labelled 10x10; of it 6 columns predicted. A second person has no part labels."""
    record = detail_record(1, [], [])
    record["part_seg_segments"] = [
        {"category_id": 255, "segmentation": to_rle(rectangle((40, 0, 20, HEIGHT)))},
        {"category_id": 1, "segmentation": to_rle(rectangle((5, 5, 10, 10)))},
    ]
    predicted = rectangle((5, 5, 6, 10)) + 2 * rectangle((40, 0, 20, HEIGHT))
    evaluator = PartsEvaluator("some data", [record], PART_CLASSES)
    found = evaluate(evaluator, record, {"part_seg": one_hot(predicted, NUM_PARTS)})
    background = HEIGHT * (WIDTH - 20) - 100
    by_hand = [60 / 100, background / (background + 40)]
    assert found["mIoU"] == pytest.approx(100 * np.mean(by_hand))


def test_nan_is_counted(caplog):
    record = detail_record(1, [(PERSON, (20, 30, 20, 20))], [])
    scores = torch.zeros(NUM_CLASSES, HEIGHT, WIDTH)
    scores[3, 5, 5] = float("nan")
    evaluator = SemanticEvaluator("some data", [record], STUFF_CLASSES)
    evaluate(evaluator, record, {"sem_seg": scores})
    assert "1 predictions of 'sem_seg'" in caplog.text


@pytest.mark.parametrize("shape", [(58, HEIGHT, WIDTH), (NUM_CLASSES, 30, WIDTH)])
def test_output_that_does_not_fit(shape):
    record = detail_record(1, [(PERSON, (20, 30, 20, 20))], [])
    evaluator = SemanticEvaluator("some data", [record], STUFF_CLASSES)
    with pytest.raises(ValueError, match=r"1\.jpg.*shape.*expected \(59, 60, 80\)"):
        evaluate(evaluator, record, {"sem_seg": torch.zeros(shape)})


def test_unknown_image():
    record = detail_record(1, [(PERSON, (20, 30, 20, 20))], [])
    evaluator = SemanticEvaluator("some data", [record], STUFF_CLASSES)
    with pytest.raises(ValueError, match="'image_id' is 7, expected the id of an image"):
        evaluator.process([{"image_id": 7, "file_name": "7.jpg"}], [{}])
