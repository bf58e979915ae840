"""Gaussians against a loop over pixels, radii against published and solved numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_multitask.targets.encode import draw_gaussians, gaussian_radius, object_radius


# Computed from CenterNet's published formula and from the quadratic as derived, outside this
# project.
@pytest.mark.parametrize(
    ("height", "width", "centernet", "exact"),
    [
        (4, 4, 1.09, 0.33),
        (16, 8, 2.94, 0.86),
        (32, 16, 5.88, 1.72),
        (64, 32, 11.77, 3.45),
        (64, 64, 17.49, 5.23),
        (128, 128, 34.98, 10.45),
    ],
)
def test_radius_of_known_boxes(height: int, width: int, centernet: float, exact: float) -> None:
    wh = torch.tensor([[float(width), float(height)]])
    assert gaussian_radius(wh, 0.7, "centernet").item() == pytest.approx(centernet, abs=0.006)
    assert gaussian_radius(wh, 0.7, "exact").item() == pytest.approx(exact, abs=0.006)


@given(
    width=st.floats(1, 200),
    height=st.floats(1, 200),
    overlap=st.floats(0.1, 0.9),
)
def test_exact_radius_keeps_the_overlap(width: float, height: float, overlap: float) -> None:
    """Moving corners by the exact radius, in the worst of the three ways, gives just that IoU."""
    r = gaussian_radius(torch.tensor([[width, height]]), overlap, "exact").item()
    area = width * height
    shifted = (width - r) * (height - r)
    ious = (
        shifted / (2 * area - shifted),
        (width - 2 * r) * (height - 2 * r) / area,
        area / ((width + 2 * r) * (height + 2 * r)),
    )
    assert min(ious) == pytest.approx(overlap, abs=1e-3)


def test_radius_is_rounded_down_from_sizes_rounded_up() -> None:
    wh = torch.tensor([[7.2, 15.1], [3.1, 3.1], [0.0, 0.0]])
    assert object_radius(wh, 0.7).tolist() == [2, 1, 0]


def test_unknown_rule_is_named() -> None:
    with pytest.raises(ValueError, match="'round'.*centernet.*exact"):
        gaussian_radius(torch.ones(1, 2), 0.7, "round")


def test_values_of_radius_one() -> None:
    """Sigma is 3 / 6, so one cell away is exp(-2) and diagonally exp(-4)."""
    heatmap = draw_gaussians(
        torch.tensor([0]), torch.tensor([[2, 1]]), torch.tensor([1]), 1, (4, 5)
    )[0]
    expected = torch.zeros(4, 5)
    expected[0, 1:4] = torch.tensor([math.exp(-4), math.exp(-2), math.exp(-4)])
    expected[1, 1:4] = torch.tensor([math.exp(-2), 1.0, math.exp(-2)])
    expected[2, 1:4] = torch.tensor([math.exp(-4), math.exp(-2), math.exp(-4)])
    torch.testing.assert_close(heatmap, expected)


def _loop(
    channel: list[int], xy: list[tuple[int, int]], radius: list[int], shape: tuple[int, int, int]
) -> np.ndarray:
    heatmap = np.zeros(shape)
    for c, (cx, cy), r in zip(channel, xy, radius, strict=True):
        sigma = (2 * r + 1) / 6
        for y in range(max(cy - r, 0), min(cy + r + 1, shape[1])):
            for x in range(max(cx - r, 0), min(cx + r + 1, shape[2])):
                value = math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
                heatmap[c, y, x] = max(heatmap[c, y, x], value)
    return heatmap


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_a_loop_over_pixels(data: st.DataObject) -> None:
    """Overlapping, touching the border, larger than the grid, several on one channel."""
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    count = data.draw(st.integers(0, 6))
    channel = [data.draw(st.integers(0, 2)) for _ in range(count)]
    xy = [
        (data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1)))
        for _ in range(count)
    ]
    radius = [data.draw(st.integers(0, 9)) for _ in range(count)]
    drawn = draw_gaussians(
        torch.tensor(channel, dtype=torch.long),
        torch.tensor(xy, dtype=torch.long).reshape(-1, 2),
        torch.tensor(radius, dtype=torch.long),
        3,
        (height, width),
    )
    expected = _loop(channel, xy, radius, (3, height, width))
    np.testing.assert_allclose(drawn.numpy(), expected, atol=1e-6)


def test_window_larger_than_the_grid_keeps_its_spread() -> None:
    """A radius far beyond the grid must not change the values inside it."""
    args = (torch.tensor([0]), torch.tensor([[1, 1]]))
    drawn = draw_gaussians(*args, torch.tensor([30]), 1, (4, 4))
    np.testing.assert_allclose(drawn.numpy(), _loop([0], [(1, 1)], [30], (1, 4, 4)), atol=1e-6)


def test_no_objects() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    assert draw_gaussians(empty, empty.view(0, 2), empty, 2, (3, 4)).shape == (2, 3, 4)
