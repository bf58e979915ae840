"""Images larger than those that the autoencoder learnt: overlapping tiles, one graph.

Letters: L patches of the whole image, T tiles.
"""

from __future__ import annotations

import torch
from scipy import sparse
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import Autoencoder
from d2_multitask.patch_graph.graph import PatchGraph
from d2_multitask.patch_graph.relation import Budget, Relation


def tile_starts(length: int, tile: int, overlap: float = 0.5) -> list[int]:
    """First patches of tiles along one side, evenly spread, the last one ending at the border.

    Args:
        length: patches of the side.
        tile: patches of a tile; tiles are as long as the side if it is shorter.
        overlap: the least share of a tile that its neighbour covers too, in [0, 1).
    """
    raise NotImplementedError


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
) -> list[tuple[tuple[int, int], Relation]]:
    """Measure the relation of each tile.

    Args:
        model: see `measure_relation`.
        image: (3, H, W).
        kind: likewise.
        budget: for each tile.
        tile_hw: (h, w) of a tile in patches: the grid that the autoencoder was trained on.
        overlap: see `tile_starts`.
        seed: likewise; tile t gets seed + t.
        batch_size: likewise.
        dtype: likewise.

    Returns:
        For each tile: its first patch (y, x) and its relation.
    """
    raise NotImplementedError


def stitch(
    tiles: list[tuple[tuple[int, int], Relation]], grid_hw: tuple[int, int]
) -> sparse.csr_array:
    """(L, L) float64, signed: the mean over the tiles that hold both patches, 0 where none does."""
    raise NotImplementedError


def graph_from_tiles(
    tiles: list[tuple[tuple[int, int], Relation]],
    grid_hw: tuple[int, int],
    *,
    locality: float | None = None,
    neighbours: int | None = None,
    power: float = 1.0,
) -> PatchGraph:
    """As `graph_from_relation`, of a whole image; the weights are sparse."""
    raise NotImplementedError
