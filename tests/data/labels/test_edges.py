"""Boundary maps and occlusion fragments."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from d2_multitask.data.labels.base import is_mirrored
from d2_multitask.data.labels.edges import (
    LEFT,
    RIGHT,
    occluder_directions,
    rasterize_fragments,
    read_fragments,
    transform_boundary,
    transform_fragments,
)
from d2_multitask.data.transforms.crops import ScaleCropTransform

HEIGHT, WIDTH = 12, 16


def chain_of(*pixels):
    """Column-major indices of (column, row) pixels."""
    return [column * HEIGHT + row for column, row in pixels]


@pytest.mark.parametrize(
    ("pixels", "label", "expected"),
    [
        pytest.param([(5, r) for r in range(8)], RIGHT, (-1, 0), id="down, front on the right"),
        pytest.param([(5, r) for r in range(8)], LEFT, (1, 0), id="down, front on the left"),
        pytest.param([(5, 8 - r) for r in range(8)], LEFT, (-1, 0), id="up, front on the left"),
        pytest.param([(c, 4) for c in range(8)], LEFT, (0, -1), id="right, front on the left"),
        pytest.param([(c, 4) for c in range(8)], RIGHT, (0, 1), id="right, front on the right"),
        pytest.param(
            [(c, c) for c in range(8)], LEFT, (0.5**0.5, -(0.5**0.5)), id="down right, left"
        ),
    ],
)
def test_direction_to_the_occluder(pixels, label, expected):
    fragments = {"indices": [chain_of(*pixels)], "labels": [label]}
    read = read_fragments(fragments, HEIGHT, WIDTH)
    assert np.allclose(occluder_directions(read), np.tile(expected, (8, 1)))
    field = rasterize_fragments(read, HEIGHT, WIDTH)
    assert field.dtype == np.float32
    for column, row in pixels:
        assert np.allclose(field[:, row, column], expected)
    assert np.count_nonzero(np.abs(field).sum(0)) == len(pixels)


def test_fragments_do_not_run_into_one_another():
    down, right = [(3, r) for r in range(6)], [(c, 9) for c in range(5, 12)]
    fragments = {"indices": [chain_of(*down), chain_of(*right)], "labels": [LEFT, LEFT]}
    directions = occluder_directions(read_fragments(fragments, HEIGHT, WIDTH))
    assert np.allclose(directions[:6], (1, 0)) and np.allclose(directions[6:], (0, -1))


def test_no_fragments_and_one_pixel():
    nothing = read_fragments({"indices": [], "labels": []}, HEIGHT, WIDTH)
    assert not rasterize_fragments(nothing, HEIGHT, WIDTH).any()
    assert not rasterize_fragments(
        transform_fragments(nothing, T.HFlipTransform(WIDTH)), HEIGHT, WIDTH
    ).any()
    dot = read_fragments({"indices": [[7], []], "labels": [1, 2]}, HEIGHT, WIDTH)
    assert not rasterize_fragments(dot, HEIGHT, WIDTH).any()


@pytest.mark.parametrize(
    ("indices", "labels", "message"),
    [
        ([[0, HEIGHT * WIDTH]], [1], "0..192, expected 0..191"),
        ([[-1]], [1], "-1..-1"),
        ([[1]], [3], "expected 1 or 2"),
        ([[1]], [1, 2], "found 2, expected 1"),
    ],
)
def test_bad_fragments_are_named(indices, labels, message):
    with pytest.raises(ValueError, match=message):
        read_fragments({"indices": indices, "labels": labels}, HEIGHT, WIDTH, "image.jpg")


STEPS = st.sampled_from([(1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)])


@st.composite
def walks(draw):
    """A walk of at least 3 pixels that turns by at most 45 degrees a step, inside the image."""
    x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    step = draw(STEPS)
    pixels = [(x, y)]
    for _ in range(draw(st.integers(2, 12))):
        x, y = x + step[0], y + step[1]
        if not (0 <= x < WIDTH and 0 <= y < HEIGHT) or (x, y) in pixels:
            break
        pixels.append((x, y))
    return pixels


@st.composite
def fragment_dicts(draw):
    found = [w for w in draw(st.lists(walks(), min_size=1, max_size=4)) if len(w) > 2]
    labels = draw(
        st.lists(st.sampled_from([LEFT, RIGHT]), min_size=len(found), max_size=len(found))
    )
    return {"indices": [chain_of(*w) for w in found], "labels": labels}


def flipped_by_hand(fragments):
    """The rule for files: mirror the columns and exchange the labels."""
    return {
        "indices": [
            [(WIDTH - 1 - i // HEIGHT) * HEIGHT + i % HEIGHT for i in chain]
            for chain in fragments["indices"]
        ],
        "labels": [3 - label for label in fragments["labels"]],
    }


@settings(max_examples=60, deadline=None)
@given(fragment_dicts())
def test_flip_of_fragments_is_the_flip_of_their_vectors(fragments):
    read = read_fragments(fragments, HEIGHT, WIDTH)
    field = rasterize_fragments(read, HEIGHT, WIDTH)
    mirrored = field[:, :, ::-1] * np.array([-1, 1])[:, None, None]
    by_hand = read_fragments(flipped_by_hand(fragments), HEIGHT, WIDTH)
    moved = transform_fragments(read, T.HFlipTransform(WIDTH))
    assert np.allclose(rasterize_fragments(by_hand, HEIGHT, WIDTH), mirrored, atol=1e-6)
    assert np.allclose(rasterize_fragments(moved, HEIGHT, WIDTH), mirrored, atol=1e-6)
    assert moved.labels.tolist() == flipped_by_hand(fragments)["labels"]
    assert np.allclose(moved.points, by_hand.points)


@settings(max_examples=60, deadline=None)
@given(fragment_dicts())
def test_fragments_to_vectors_and_back(fragments):
    """Chain and vectors say the label, also after mirroring: the vectors are left of travel or
    right of it.
    """
    for read in (
        read_fragments(fragments, HEIGHT, WIDTH),
        transform_fragments(read_fragments(fragments, HEIGHT, WIDTH), T.HFlipTransform(WIDTH)),
    ):
        directions = occluder_directions(read)
        for index, label in enumerate(read.labels):
            of = read.fragment == index
            travel = read.points[of][-1] - read.points[of][0]  # the walks are straight
            left = np.array([travel[1], -travel[0]])
            sides = directions[of] @ left
            assert (sides > 0).all() if label == LEFT else (sides < 0).all()


@pytest.mark.parametrize(
    ("transform", "mirrored"),
    [
        (T.HFlipTransform(WIDTH), True),
        (T.VFlipTransform(HEIGHT), True),
        (T.TransformList([T.HFlipTransform(WIDTH), T.VFlipTransform(HEIGHT)]), False),
        (T.ResizeTransform(HEIGHT, WIDTH, 30, 20), False),
        (T.CropTransform(2, 3, 5, 5), False),
        (T.NoOpTransform(), False),
    ],
)
def test_is_mirrored(transform, mirrored):
    assert is_mirrored(transform) == mirrored


def test_an_enlarged_line_has_no_gaps_and_a_smaller_one_is_whole():
    line = {"indices": [chain_of(*[(c, 6) for c in range(2, 14)])], "labels": [LEFT]}
    read = read_fragments(line, HEIGHT, WIDTH)
    for scale in (3.7, 0.5):
        size = round(HEIGHT * scale), round(WIDTH * scale)
        moved = transform_fragments(read, T.ResizeTransform(HEIGHT, WIDTH, *size))
        field = rasterize_fragments(moved, *size)
        rows, columns = np.nonzero(np.abs(field).sum(0))
        assert len(set(rows.tolist())) == 1
        assert np.array_equal(np.unique(columns), np.arange(columns.min(), columns.max() + 1))
        assert np.allclose(field[:, rows, columns], [[0], [-1]])


def test_what_is_cropped_away_is_left_out():
    line = {"indices": [chain_of(*[(c, 6) for c in range(2, 14)])], "labels": [LEFT]}
    crop = ScaleCropTransform((1, 1), (8, 2), (6, 6))
    moved = transform_fragments(read_fragments(line, HEIGHT, WIDTH), crop)
    field = rasterize_fragments(moved, 6, 6)
    assert np.array_equal(np.nonzero(field[1])[1], np.arange(6))
    assert (field[1, 4] == -1).all()


def ring(height=40, width=60):
    """The contour of a disc, one pixel thin."""
    y, x = np.indices((height, width))
    disc = (x - 30) ** 2 + (y - 20) ** 2 < 15**2
    inner = disc[1:-1, :-2] & disc[1:-1, 2:] & disc[:-2, 1:-1] & disc[2:, 1:-1]
    edge = disc.copy()
    edge[1:-1, 1:-1] &= ~inner
    return edge.astype(np.uint8)


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0, 2.0, 3.3])
def test_a_ring_stays_one_thin_ring(scale):
    boundary = ring()
    size = round(40 * scale), round(60 * scale)
    moved = transform_boundary(boundary, T.ResizeTransform(40, 60, *size))
    assert moved.shape == size and set(np.unique(moved)) == {0, 1}
    parts, count = ndimage.label(moved, np.ones((3, 3)))
    assert count == 1
    # What is enclosed stays enclosed: inside and outside are two regions.
    assert ndimage.label(moved == 0)[1] == 2
    # As long as it should be, so one pixel thin; small rings have steeper stairs.
    assert moved.sum() == pytest.approx(boundary.sum() * scale, rel=0.35)


def test_a_flip_is_a_flip():
    boundary = ring()
    boundary[3, 4] = 1
    moved = transform_boundary(boundary, T.HFlipTransform(60))
    assert np.array_equal(moved, boundary[:, ::-1])


def test_ignored_pixels_stay_ignored_and_padding_is_ignored():
    boundary = np.zeros((10, 10), np.uint8)
    boundary[:, :3] = 255
    boundary[5, 2:] = 1
    crop = ScaleCropTransform((1, 1), (-2, 0), (10, 14))
    moved = transform_boundary(boundary, crop)
    assert (moved[:, :2] == 255).all() and (moved[:, 12:] == 255).all()
    assert (moved[:5, 2:5] == 255).all()
    assert (moved[5, 4:12] == 1).all() and (moved[4, 5:12] == 0).all()


def test_the_input_is_not_changed_and_may_be_empty():
    boundary = np.zeros((10, 10), np.uint8)
    boundary.setflags(write=False)
    assert not transform_boundary(boundary, T.ResizeTransform(10, 10, 5, 20)).any()
