from __future__ import annotations

import numpy as np
import pytest
import torch

from d2_multitask.evaluation.boundary.evaluator import EdgeEvaluator
from d2_multitask.evaluation.boundary.precision_recall import (
    EdgeJob,
    count_edges,
    occlusion_metrics,
)
from detail_support import inputs_of, perfect_output, three_images

SIZE = (30, 40)  # diagonal 50: 0.04 of it are 2 pixels
THRESHOLDS = np.array([0.25, 0.5, 0.75])


def vertical(column: int, value: float = 1.0) -> np.ndarray:
    field = np.zeros(SIZE, dtype=np.float32)
    field[5:25, column] = value
    return field


def count(probability=None, boundary=None, field=None, occlusion=None):
    return count_edges(EdgeJob(THRESHOLDS, 0.04, probability, field, boundary, occlusion))


def to_the_right(mask: np.ndarray) -> np.ndarray:
    return np.stack([mask, np.zeros_like(mask)])


@pytest.mark.parametrize(("column", "matched"), [(20, 20), (22, 20), (23, 0)])
def test_boundary_within_the_distance(column, matched):
    """A line of 20 pixels against the same line 0, 2 and 3 columns away; at .75 it is gone."""
    found = count(vertical(column, 0.6), (vertical(20) > 0).astype(np.uint8)).boundary
    np.testing.assert_array_equal(found, [[matched, matched, 0], [20] * 3, [20, 20, 0]])


def test_a_pixel_is_matched_once():
    """Two predicted lines, one labelled: half of the predictions are wrong."""
    found = count(vertical(19) + vertical(21), (vertical(20) > 0).astype(np.uint8)).boundary
    np.testing.assert_array_equal(found[:, 0], [20, 20, 40])


def test_wide_lines_are_thinned():
    """Both sides: of 3x20 pixels the middle is left, without its ends."""
    wide = vertical(19) + vertical(20) + vertical(21)
    found = count(wide, (wide > 0).astype(np.uint8)).boundary
    assert found[0, 0] == found[1, 0] == found[2, 0]
    assert 18 <= found[0, 0] <= 20


def test_predictions_on_ignored_pixels_do_not_count():
    label = (vertical(20) > 0).astype(np.uint8)
    label[:, :10] = 255
    found = count(vertical(20) + vertical(5), label).boundary
    np.testing.assert_array_equal(found[:, 0], [20, 20, 20])


def test_directions_by_hand():
    """10 of 20 pixels point to the right as labelled, 5 away, 5 nowhere."""
    line = vertical(20)
    field = to_the_right(line)
    field[:, 15:20] *= -1
    field[:, 20:25] = 0
    found = count(line, None, field, to_the_right(line))
    np.testing.assert_array_equal(found.directions, [10, 20])
    np.testing.assert_array_equal(found.occlusion[:, 0], [10, 20, 20, 20, 20])
    assert found.boundary is None


@pytest.mark.parametrize(("angle", "right"), [(0, 20), (89, 20), (91, 0), (180, 0), (-89, 20)])
def test_directions_within_90_degrees(angle, right):
    line = vertical(20)
    radians = np.deg2rad(angle)
    field = 7 * np.stack([np.cos(radians) * line, np.sin(radians) * line])
    assert count(line, None, field, to_the_right(line)).directions[0] == right


def test_directions_are_read_where_the_prediction_is():
    """Predicted two columns away from the label, with the right direction only there."""
    label = to_the_right(vertical(20))
    field = -label + 2 * to_the_right(vertical(22))
    found = count(vertical(22), None, field, label)
    np.testing.assert_array_equal(found.occlusion[:2, 0], [20, 20])
    np.testing.assert_array_equal(found.directions, [0, 20])


def test_boundaries_without_a_direction_label_are_not_wrong():
    """Lines at columns 10 and 30, a direction only at 10, and a false one at 20."""
    boundary = ((vertical(10) + vertical(30)) > 0).astype(np.uint8)
    label = to_the_right(vertical(10))
    probability = vertical(10) + vertical(20) + vertical(30)
    found = count(probability, boundary, np.ones((2, *SIZE), np.float32), label)
    # Predicted: 60, of which the 20 at column 30 are neither right nor wrong.
    np.testing.assert_array_equal(found.occlusion[:, 0], [20, 20, 20, 60, 40])
    np.testing.assert_array_equal(found.boundary[:, 0], [40, 40, 60])


def test_occlusion_metrics_by_hand():
    """One image, 100 labelled pixels, two thresholds: matched 80 of 160 (60 right), then 50 of 50
    (40 right). Detection is better at the second: F 2/3 against 2 * 80 / 260 = .615.
    """
    counts = np.array([[60, 40], [80, 50], [100, 100], [160, 50], [160, 50]])[:, None]
    found = occlusion_metrics(counts)
    assert found["orientation-accuracy"] == pytest.approx(100 * 40 / 50)
    assert found["OIS-F"] == pytest.approx(100 * 2 * 40 / 150)
    # Accuracy .8 up to recall .5, then falling to .75 at recall .8.
    recalls = np.arange(0.01, 0.8, 0.01)
    by_hand = np.where(recalls <= 0.5, 0.8, 0.8 - 0.05 * (recalls - 0.5) / 0.3)
    assert found["AOR"] == pytest.approx(100 * by_hand.mean())


def test_occlusion_without_a_boundary_map():
    records = three_images()
    evaluator = EdgeEvaluator("some data", records, tasks=["occlusion"], num_workers=0)
    outputs = [{"occlusion": perfect_output(record)["occlusion"]} for record in records]
    evaluator.process(inputs_of(records), outputs)
    assert evaluator.evaluate() == {"occlusion": {"orientation-accuracy-at-labels": 100.0}}


def test_nan_is_counted(caplog):
    records = three_images()
    evaluator = EdgeEvaluator("some data", records, tasks=["boundary"], num_workers=0)
    outputs = [perfect_output(record) for record in records]
    outputs[0]["boundary"][outputs[0]["boundary"] == 0] = float("nan")
    evaluator.process(inputs_of(records), outputs)
    assert evaluator.evaluate()["boundary"]["ODS-F"] == pytest.approx(100)
    assert "1 predictions of 'boundary'" in caplog.text


@pytest.mark.slow
def test_worker_processes_give_the_same():
    records = three_images()
    generator = torch.Generator().manual_seed(0)
    outputs = [
        {**perfect_output(record), "boundary": torch.rand((60, 80), generator=generator)}
        for record in records
    ]
    results = []
    for num_workers in (0, 2):
        evaluator = EdgeEvaluator("some data", records, num_workers=num_workers, num_thresholds=9)
        evaluator.process(inputs_of(records), outputs)
        results.append(evaluator.evaluate())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["edges"]}, "tasks: found"),
        ({"max_distance": 1.5}, "max_distance: found 1.5"),
        ({"num_thresholds": 0}, "number of thresholds: found 0"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        EdgeEvaluator("some data", [], **arguments)
