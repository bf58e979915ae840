"""Each evaluator gets drawn predictions that it can score."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.pascal_in_detail import (
    MetricTime,
    drawn_image,
    time_evaluators,
    total_minutes,
)
from d2_multitask.data.labels.edges import BoundaryLabel, OcclusionLabel
from d2_multitask.data.labels.sem_seg import PartSegLabel, SemSegLabel


def test_all_evaluators_are_timed():
    times = time_evaluators(3, (60, 80), num_thresholds=5, num_workers=0)
    assert len(times) == 6
    assert all(time.images == 3 and time.seconds > 0 for time in times.values())


def test_time_in_proportion():
    times = {"a": MetricTime(10, 2.0, 1.0), "b": MetricTime(10, 1.0, 1.0)}
    assert times["a"].minutes_for(300) == pytest.approx(1)
    assert total_minutes(times, 300) == pytest.approx(1.5)


def test_drawn_images_have_every_label():
    record, output = drawn_image(np.random.default_rng(0), (375, 500))
    assert (SemSegLabel().read(record) < 59).any() and (PartSegLabel().read(record) > 0).any()
    assert BoundaryLabel().read(record).sum() > 500
    assert (OcclusionLabel().read(record) != 0).any(axis=0).sum() > 500
    assert output["boundary"].shape == (375, 500) and len(output["instances"]) == 20
