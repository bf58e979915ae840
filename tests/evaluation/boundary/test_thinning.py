from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from d2_multitask.evaluation.boundary.thinning import thin

maps = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def drawing(text: str) -> np.ndarray:
    return np.array([[c == "#" for c in line] for line in text.split()])


@pytest.mark.parametrize(
    ("thick", "thin_lines"),
    [
        pytest.param(".... .##. ....", ".... .##. ....", id="a line stays"),
        pytest.param("#", "#", id="a pixel stays"),
        pytest.param(
            "....... .#####. .#####. .#####. .......",
            "....... ....... ..###.. ....... .......",
            id="a bar becomes its middle",
        ),
        pytest.param(
            ".###. .#.#. .###.", "..#.. .#.#. ..#..", id="corners go, the hole and the ring stay"
        ),
        pytest.param("#.#.# ..... #.#.#", "#.#.# ..... #.#.#", id="single pixels stay"),
    ],
)
def test_drawings(thick, thin_lines):
    """By hand."""
    np.testing.assert_array_equal(thin(drawing(thick)), drawing(thin_lines))


def test_a_wide_line_becomes_one_line():
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[18:23, 5:55] = 1
    result = thin(mask)
    assert result[20, 10:50].all()
    assert (result.sum(axis=0) <= 1).all()


@settings(max_examples=60, deadline=None)
@given(maps)
def test_thinning_keeps_what_it_must(mask):
    result = thin(mask)
    assert not (result & ~mask).any()
    np.testing.assert_array_equal(thin(result), result)
    eight = np.ones((3, 3))
    assert ndimage.label(result, eight)[1] == ndimage.label(mask, eight)[1]
    holes = [ndimage.label(np.pad(~m, 1, constant_values=True))[1] for m in (result, mask)]
    assert holes[0] == holes[1]
