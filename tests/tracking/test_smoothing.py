from __future__ import annotations

import math

import numpy as np
import pytest

from d2_multitask.tracking.smoothing import MIN_CUTOFF, SPEED_CUTOFF, SPEED_FACTOR, Smooth, smooth


def one_euro(values, fps, height):
    """The paper's algorithm 1 on plain numbers; speed in heights a second."""

    def alpha(cutoff):
        tau = 1 / (2 * math.pi * cutoff)
        return 1 / (1 + tau * fps)

    smooth_value, speed = values[0], 0.0
    for value in values[1:]:
        change = (value - smooth_value) * fps
        speed = alpha(SPEED_CUTOFF) * change + (1 - alpha(SPEED_CUTOFF)) * speed
        weight = alpha(MIN_CUTOFF + SPEED_FACTOR * abs(speed) / height)
        smooth_value = weight * value + (1 - weight) * smooth_value
    return smooth_value


def run(values, fps=25.0, height=100.0):
    """Values (frames, K, 2) through the filter."""
    state = Smooth(values[None, 0], np.zeros((1, *values.shape[1:])))
    for value in values[1:]:
        points = np.concatenate((value, np.ones((len(value), 1))), 1)[None]
        state = smooth(state, points, np.array([height]), np.ones(1), fps)
    return state.points[0]


@pytest.mark.parametrize("fps", [10.0, 25.0])
def test_is_the_papers_filter(fps):
    values = np.random.default_rng(0).normal(0, 5, (12, 3, 2)).cumsum(0)
    expected = [one_euro(series, fps, 80.0) for series in values.reshape(12, 6).T]
    np.testing.assert_allclose(run(values, fps, 80.0).ravel(), expected)


def test_calms_a_still_point_and_follows_a_fast_one():
    noise = np.random.default_rng(1).normal(0, 1, (400, 50, 2))
    assert run(noise).std() < 0.7
    moving = np.arange(50.0)[:, None, None] * np.full((1, 1, 2), 8.0)  # two heights a second
    assert np.abs(run(moving) - moving[-1]).max() < 4  # half a frame late
