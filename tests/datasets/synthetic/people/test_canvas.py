from __future__ import annotations

import numpy as np
import pytest

from synthetic.people.canvas import (
    NOBODY,
    Canvas,
    Cone,
    Light,
    Material,
    Stamp,
    material_colour,
)

RED = Material((200.0, 0.0, 0.0))


def test_a_disc_owns_the_pixels_whose_centre_it_covers():
    canvas = Canvas(12, 14)
    canvas.paint((Cone(6.2, 5.4, 3.3, 6.2, 5.4, 3.3),), RED, stamp=Stamp(0, 1))
    rows, columns = np.mgrid[:12, :14]
    expected = (columns + 0.5 - 6.2) ** 2 + (rows + 0.5 - 5.4) ** 2 < 3.3**2
    assert np.array_equal(canvas.owner == 0, expected)
    assert np.array_equal(canvas.part == 1, expected)


def test_a_cone_is_the_union_of_its_discs():
    canvas = Canvas(40, 60)
    canvas.paint((Cone(10.0, 12.0, 6.0, 45.0, 25.0, 3.0),), RED, stamp=Stamp(0, 1))
    rows, columns = np.mgrid[:40, :60] + 0.5
    inside = np.zeros((40, 60), bool)
    for t in np.linspace(0, 1, 500):
        x, y, radius = 10 + 35 * t, 12 + 13 * t, 6 - 3 * t
        inside |= (columns - x) ** 2 + (rows - y) ** 2 < radius**2
    # The radius is measured across the axis, not across the slanted side: a hair less.
    assert np.count_nonzero((canvas.owner == 0) != inside) <= 0.03 * np.count_nonzero(inside)


def test_edges_are_mixed_and_the_inside_is_not():
    canvas = Canvas(9, 9)
    canvas.paint((Cone(4.5, 4.5, 2.5, 4.5, 4.5, 2.5),), RED)
    red = canvas.image[..., 0]
    assert red[4, 4] == 200.0
    assert red[4, 2] == 200.0
    assert 0.0 < red[3, 2] < 200.0
    assert red[0, 0] == 0.0


def test_later_things_cover_earlier_ones_and_boxes_take_labels_away():
    canvas = Canvas(10, 10)
    canvas.paint_box(1, 1, 8, 8, RED, stamp=Stamp(0, 2))
    canvas.paint_box(4, 1, 9, 8, RED, stamp=Stamp(1, 3))
    canvas.paint_box(4, 4, 6, 6, RED, stamp=Stamp(NOBODY, 0))
    assert np.count_nonzero(canvas.owner == 0) == 3 * 7
    assert np.count_nonzero(canvas.owner == 1) == 5 * 7 - 4
    assert canvas.part[4, 4] == 0


def test_only_on_keeps_within_the_labels():
    canvas = Canvas(10, 10)
    canvas.paint_box(0, 0, 5, 10, RED, stamp=Stamp(0, 2))
    blue = Material((0.0, 0.0, 90.0))
    canvas.paint((Cone(5, 5, 4, 5, 5, 4),), blue, only_on=Stamp(0, 2))
    assert canvas.image[5, 3].tolist() == [0.0, 0.0, 90.0]
    assert canvas.image[5, 6].tolist() == [0.0, 0.0, 0.0]
    assert np.count_nonzero(canvas.owner == 0) == 50


@pytest.mark.parametrize(
    "cone",
    [
        pytest.param(Cone(-20, 5, 3, -10, 5, 3), id="left"),
        pytest.param(Cone(5, 40, 3, 5, 30, 3), id="below"),
        pytest.param(Cone(5, -9, 3, 5, -5, 3), id="above"),
        pytest.param(Cone(300, 5, 3, 310, 5, 3), id="right"),
    ],
)
def test_things_outside_leave_the_canvas_alone(cone):
    canvas = Canvas(10, 10)
    canvas.paint((cone,), RED, Light(0, 0, 1, 0.5, 0.5), stamp=Stamp(0, 1))
    assert not canvas.image.any()
    assert (canvas.owner == NOBODY).all()


def test_the_side_towards_the_light_is_brighter():
    canvas = Canvas(20, 20)
    canvas.paint((Cone(10, 2, 6, 10, 18, 6),), RED, Light(0.8, 0.0, 0.6, 0.4, 0.6))
    assert canvas.image[10, 14, 0] > canvas.image[10, 10, 0] > canvas.image[10, 6, 0]


def test_patterns_have_both_colours_and_unknown_ones_are_named():
    along, across = np.mgrid[:16, :16].astype(np.float32) - 8
    for pattern in ("hoops", "stripes", "checks", "dots", "halves"):
        material = Material((1.0, 1.0, 1.0), (2.0, 2.0, 2.0), pattern)
        assert set(np.unique(material_colour(material, along, across))) == {1.0, 2.0}, pattern
    with pytest.raises(ValueError, match="'tartan'"):
        material_colour(Material((0, 0, 0), pattern="tartan"), along, across)
