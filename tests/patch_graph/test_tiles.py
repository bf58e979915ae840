from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2_multitask.patch_graph.graph import graph_from_matrix, graph_from_relation
from d2_multitask.patch_graph.relation import Budget, Relation, measure_relation
from d2_multitask.patch_graph.segmenter import SegmenterSettings, measure_tiles
from d2_multitask.patch_graph.similarity import patch_places
from d2_multitask.patch_graph.tiles import Window, stitch, tile_windows
from d2_multitask.targets.tiles import tile_starts
from patch_graph_support import (
    PATCH_SIZE,
    linear_autoencoder,
    numbered_image,
)

GRID = (4, 9)


def local_influence(grid_hw: tuple[int, int]) -> torch.Tensor:
    """(L, L): each patch is helped by its four neighbours alone, each by another amount."""
    places = patch_places(grid_hw)
    near = torch.cdist(places, places) == 1
    generator = torch.Generator().manual_seed(0)
    return near * (0.005 + 0.01 * torch.rand(near.shape, generator=generator))


@pytest.fixture
def model():
    return linear_autoencoder(local_influence(GRID))


def leave_one_out(model, image, **options) -> list[tuple[Window, Relation]]:
    settings = SegmenterSettings(kinds=("leave_one_out",), passes=2000, **options)
    return measure_tiles(model, image, settings)


def test_a_local_relation_is_the_same_from_tiles(model) -> None:
    image = numbered_image(GRID)
    whole = measure_relation(model, image, "leave_one_out", Budget(4000))
    tiles = leave_one_out(model, image, tile_hw=(4, 4))
    assert [window.first_yx for window, _ in tiles] == [(0, 0), (0, 2), (0, 3), (0, 5)]
    stitched = stitch(tiles, GRID).toarray()
    # The usual error depends a little on how much is visible.
    np.testing.assert_allclose(stitched, whole.symmetric().numpy(), rtol=0.03, atol=2e-5)


def test_graphs_from_tiles_and_from_the_whole(model) -> None:
    image = numbered_image(GRID)
    whole = measure_relation(model, image, "leave_one_out", Budget(4000))
    tiles = leave_one_out(model, image, tile_hw=(4, 4))
    for options in ({}, {"neighbours": 2}, {"locality": 1.5, "neighbours": 3}):
        from_tiles = graph_from_matrix(stitch(tiles, GRID), GRID, **options)
        expected = graph_from_relation(whole, **options)
        np.testing.assert_allclose(from_tiles.dense(), expected.weights, rtol=0.07, atol=2e-5)
        assert (from_tiles.weights != from_tiles.weights.T).nnz == 0
        np.testing.assert_array_equal(from_tiles.positions_yx, expected.positions_yx)


def test_one_tile_is_the_whole_image(model) -> None:
    tiles = leave_one_out(model, numbered_image(GRID), tile_hw=(10, 10))
    whole = measure_relation(model, numbered_image(GRID), "leave_one_out", Budget(2000))
    assert len(tiles) == 1
    torch.testing.assert_close(tiles[0][1].matrix, whole.matrix)


def test_overlaps_are_averaged() -> None:
    first = Relation(torch.tensor([[0.0, 1.0], [3.0, 0.0]]), (1, 2))
    second = Relation(torch.tensor([[0.0, 4.0], [4.0, 0.0]]), (1, 2))
    window, shifted = Window((0, 0), (1, 2)), Window((0, 1), (1, 2))
    stitched = stitch([(window, first), (window, second), (shifted, second)], (1, 3)).toarray()
    assert stitched.tolist() == [[0, 3, 0], [3, 0, 4], [0, 4, 0]]


def test_tiles_have_seeds_of_their_own(model) -> None:
    image = numbered_image(GRID)
    tiles = leave_one_out(model, image, tile_hw=(4, 4), seed=3)
    window, relation = tiles[2]
    alone = measure_relation(
        model, window.crop(image, PATCH_SIZE), "leave_one_out", Budget(2000), seed=5
    )
    torch.testing.assert_close(relation.matrix, alone.matrix)


@given(st.integers(1, 60), st.integers(2, 20), st.floats(0, 0.9))
def test_tiles_cover_a_side_and_overlap(length, tile, overlap) -> None:
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0 and starts == sorted(set(starts))
    if length <= tile:
        assert starts == [0]
        return
    assert starts[-1] + tile == length
    for first, second in zip(starts[:-1], starts[1:], strict=True):
        # at least the overlap, up to the rounding to whole patches
        assert second - first <= max(1, tile * (1 - overlap) + 1)


def test_half_overlapping_tiles() -> None:
    assert tile_starts(24, 12) == [0, 6, 12]
    assert tile_starts(25, 12) == [0, 4, 9, 13]


def test_bad_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="tiles of 1x8 patches"):
        tile_windows((20, 20), (1, 8))


def test_windows_know_their_patches_and_pixels() -> None:
    image = numbered_image(GRID)
    windows = tile_windows(GRID, (2, 4))
    assert len(windows) == 3 * 4 and tile_windows(GRID, None) == [Window((0, 0), GRID)]
    for window in windows:
        numbers = window.crop(image, PATCH_SIZE)[0, ::PATCH_SIZE, ::PATCH_SIZE]
        assert numbers.flatten().tolist() == window.patches(GRID).tolist()
    assert windows[0].patches(GRID).tolist() == [0, 1, 2, 3, 9, 10, 11, 12]
