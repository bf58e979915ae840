from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthetic.people.geometry import Vec3, sin_cos, turn

LEFT, UP, FORWARD = Vec3(1, 0, 0), Vec3(0, 1, 0), Vec3(0, 0, 1)
RIGHT, DOWN, BACK = LEFT.times(-1), UP.times(-1), FORWARD.times(-1)


@given(st.floats(-2000, 2000))
def test_sin_cos_agrees_with_the_math_library(degrees):
    expected = (math.sin(math.radians(degrees)), math.cos(math.radians(degrees)))
    assert sin_cos(degrees) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("angles", "start", "end"),
    [
        pytest.param((90, 0, 0), UP, FORWARD, id="leaning forward about x"),
        pytest.param((0, 90, 0), FORWARD, LEFT, id="looking to the left about y"),
        pytest.param((0, 0, 90), DOWN, LEFT, id="raising the left arm about z"),
        pytest.param((0, 180, 0), LEFT, RIGHT, id="turned round"),
        pytest.param((0, 0, 0), BACK, BACK, id="not turned"),
        pytest.param((90, 90, 0), FORWARD, LEFT, id="y before x"),
    ],
)
def test_turn(angles, start, end):
    assert turn(*angles).apply(start) == pytest.approx(end, abs=1e-12)


def test_after_does_the_argument_first():
    first, second = turn(about_y=90), turn(about_z=90)
    both = second.after(first)
    assert both.apply(FORWARD) == pytest.approx(second.apply(first.apply(FORWARD)), abs=1e-12)
    assert both.apply(FORWARD) == pytest.approx(UP, abs=1e-12)
