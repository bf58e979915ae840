from __future__ import annotations

import numpy as np
import pytest

from synthetic.in_detail.contours import (
    boundary_mask,
    occlusion_fragments,
    walk_chains,
)


def two_boxes(front_left):
    """Two boxes that meet between columns 9 and 10; the nearer one has the larger number."""
    owner = np.full((16, 20), -1)
    owner[3:13, 4:10] = 1 if front_left else 0
    owner[3:13, 10:16] = 0 if front_left else 1
    return owner


@pytest.mark.parametrize("front_left", [True, False])
def test_the_fragment_between_two_boxes(front_left):
    """It runs along the nearer one's column, and its label says where that one is."""
    chains, labels = occlusion_fragments(two_boxes(front_left))
    (chain,) = chains
    column = 9 if front_left else 10
    assert sorted(chain.tolist()) == [column * 16 + row for row in range(3, 13)]
    down = chain[1] > chain[0]
    # Going down, left of travel is the image's right.
    assert labels == [2 if front_left == down else 1]


def test_boundary_pixels_belong_to_the_nearer_one():
    owner = two_boxes(True)
    expected = np.zeros(owner.shape, bool)
    expected[3:13, 4:16] = True
    expected[4:12, 5:9] = False  # inside of the left one
    expected[4:12, 10:15] = False  # inside of the right one, and its side that is covered
    assert np.array_equal(boundary_mask(owner), expected)


def test_nothing_has_no_boundary():
    owner = np.full((5, 5), -1)
    assert not boundary_mask(owner).any()
    assert occlusion_fragments(owner) == ([], [])


def test_walks_visit_every_pixel_once_in_connected_steps():
    mask = np.random.default_rng(0).random((20, 20)) < 0.25
    chains = walk_chains(mask)
    pixels = [pixel for chain in chains for pixel in chain]
    assert len(pixels) == len(set(pixels)) == mask.sum()
    for chain in chains:
        steps = np.abs(np.diff(np.array(chain), axis=0)).max(axis=1)
        assert (steps == 1).all()
