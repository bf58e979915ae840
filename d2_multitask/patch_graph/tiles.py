"""Images larger than those that the autoencoder learnt: overlapping tiles, one graph.

Letters: L patches of the whole image, l of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import Autoencoder, patch_grid_of
from d2_multitask.patch_graph.graph import PatchGraph, check_graph_settings
from d2_multitask.patch_graph.relation import Budget, Relation, measure_relation
from d2_multitask.patch_graph.similarity import patch_places
from d2_multitask.patch_graph.tile_windows import Window, tile_windows

Tile = tuple[Window, Relation]


def measure_tiles(
    model: Autoencoder,
    image: Tensor,
    kind: str = "ridge",
    budget: Budget | None = None,
    *,
    tile_hw: tuple[int, int],
    overlap: float = 0.5,
    seed: int = 0,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    **settings: Any,
) -> list[Tile]:
    """Measure the relation of each tile.

    Args:
        model: see `d2_multitask.patch_graph.relation.measure_relation`.
        image: (3, H, W).
        kind: likewise.
        budget: for each tile.
        tile_hw: (h, w) of a tile in patches: the grid that the autoencoder was trained on.
        overlap: see `d2_multitask.patch_graph.tile_windows.tile_starts`.
        seed: likewise; the tile number t gets seed + t.
        batch_size: likewise.
        dtype: likewise.
        **settings: likewise.

    Returns:
        The tiles in reading order, each with its relation.

    Raises:
        ValueError: see `measure_relation` and `tile_starts`.
    """
    windows = tile_windows(patch_grid_of(image, model.patch_size), tile_hw, overlap)
    return [
        (
            window,
            measure_relation(
                model,
                window.crop(image, model.patch_size),
                kind,
                budget,
                seed=seed + number,
                batch_size=batch_size,
                dtype=dtype,
                **settings,
            ),
        )
        for number, window in enumerate(windows)
    ]


def stitch(tiles: Sequence[Tile], grid_hw: tuple[int, int]) -> sparse.csr_array:
    """One matrix from those of tiles.

    Args:
        tiles: of one image.
        grid_hw: (h, w) of the image.

    Returns:
        (L, L) float64, symmetric and signed: the mean over the tiles that hold both patches, 0
        where none does.
    """
    total = sum(_spread(window, r.symmetric(), grid_hw) for window, r in tiles)
    times = sum(_spread(window, torch.ones_like(r.matrix), grid_hw) for window, r in tiles)
    times.data = 1 / times.data
    return sparse.csr_array(total.multiply(times))


def _spread(window: Window, matrix: Tensor, grid_hw: tuple[int, int]) -> sparse.csr_array:
    """(l, l) of a tile -> (L, L) of the image."""
    patches = window.patches(grid_hw)
    rows, columns = np.meshgrid(patches, patches, indexing="ij")
    length = grid_hw[0] * grid_hw[1]
    values = matrix.double().numpy().flatten()
    return sparse.csr_array((values, (rows.flatten(), columns.flatten())), shape=(length, length))


def graph_from_tiles(
    tiles: Sequence[Tile],
    grid_hw: tuple[int, int],
    *,
    locality: float | None = None,
    neighbours: int | None = None,
    power: float = 1.0,
) -> PatchGraph:
    """As `d2_multitask.patch_graph.graph.graph_from_relation`, of a whole image.

    Args:
        tiles: of one image.
        grid_hw: (h, w) of the image.
        locality: see there.
        neighbours: see there.
        power: see there.

    Returns:
        The graph of L nodes; its weights are sparse.

    Raises:
        ValueError: see there.
    """
    check_graph_settings(locality, neighbours, power)
    matrix = stitch(tiles, grid_hw).tocoo()
    places = patch_places(grid_hw).double().numpy()
    values = matrix.data.clip(min=0) ** power
    if locality is not None:
        square = ((places[matrix.row] - places[matrix.col]) ** 2).sum(1)
        values = values * np.exp(-square / (2 * locality**2))
    keep = (values > 0) & (matrix.row != matrix.col)
    ends = (matrix.row[keep], matrix.col[keep])
    weights = sparse.csr_array((values[keep], ends), shape=matrix.shape)
    if neighbours is not None:
        weights = _keep_strongest(weights, neighbours)
    return PatchGraph(weights, places, grid_hw)


def _keep_strongest(weights: sparse.csr_array, neighbours: int) -> sparse.csr_array:
    """Keep edges that are among the strongest of either end."""
    degrees = np.diff(weights.indptr)
    rows = np.repeat(np.arange(weights.shape[0]), degrees)
    order = np.lexsort((-weights.data, rows))
    rank = np.empty(len(order), np.int64)  # of each edge among those of its row
    rank[order] = np.arange(len(order)) - np.repeat(weights.indptr[:-1], degrees)
    kept = weights.copy()
    kept.data = np.where(rank < neighbours, kept.data, 0)
    kept.eliminate_zeros()
    return sparse.csr_array(kept.maximum(kept.T))
