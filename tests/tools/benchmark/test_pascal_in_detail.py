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
from d2_multitask.data.labels.boundary import boundary_map
from d2_multitask.data.labels.occlusion import occlusion_map
from d2_multitask.data.labels.parts import part_seg_map
from d2_multitask.data.labels.sem_seg import sem_seg_map


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
    assert (sem_seg_map(record) < 59).any() and (part_seg_map(record) > 0).any()
    assert boundary_map(record).sum() > 500
    assert (occlusion_map(record) != 0).any(axis=0).sum() > 500
    assert output["boundary"].shape == (375, 500) and len(output["instances"]) == 20
