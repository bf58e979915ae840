"""Images larger than those that the autoencoder was trained with: overlapping tiles, one relation.

Letters: L = h * w patches of the image, l of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import MIN_GRID
from d2_multitask.patch_graph.relation import Relation
from d2_multitask.targets.tiles import tile_starts


@dataclass(frozen=True)
class Window:
    """A rectangle of patches: its first patch, and its patches along height and width."""

    first_yx: tuple[int, int]
    grid_hw: tuple[int, int]

    def crop(self, image: Tensor, patch_size: int) -> Tensor:
        """(3, H, W) -> the window's pixels (3, h * p, w * p)."""
        (y, x), (h, w) = self.first_yx, self.grid_hw
        rows = slice(y * patch_size, (y + h) * patch_size)
        return image[:, rows, x * patch_size : (x + w) * patch_size]

    def finer(self, times: int) -> Window:
        """The same rectangle in parts of a patch, ``times`` along a side."""
        (y, x), (h, w) = self.first_yx, self.grid_hw
        return Window((y * times, x * times), (h * times, w * times))

    def patches(self, image_grid_hw: tuple[int, int]) -> np.ndarray:
        """(l,) int64: indices of the window's patches among those of the image."""
        (y, x), (h, w) = self.first_yx, self.grid_hw
        indices = np.arange(math.prod(image_grid_hw)).reshape(image_grid_hw)
        return indices[y : y + h, x : x + w].flatten()


Tile = tuple[Window, Relation]


def tile_windows(grid_hw: tuple[int, int], tile_hw: tuple[int, int] | None) -> list[Window]:
    """The tiles of a grid, in reading order; neighbours have at least half a tile in common.

    Args:
        grid_hw: (h, w) of the image.
        tile_hw: (h, w) of a tile, in patches; ``None`` = one window, the whole image.

    Raises:
        ValueError: a tile of fewer than 2 patches along a side.
    """
    if tile_hw is None:
        return [Window((0, 0), grid_hw)]
    if min(tile_hw) < MIN_GRID:
        raise ValueError(
            f"Tiles: found tiles of {tile_hw[0]}x{tile_hw[1]} patches, expected at least "
            f"{MIN_GRID}x{MIN_GRID}"
        )
    rows, columns = (tile_starts(*sides) for sides in zip(grid_hw, tile_hw, strict=True))
    size = (min(tile_hw[0], grid_hw[0]), min(tile_hw[1], grid_hw[1]))
    return [Window((y, x), size) for y in rows for x in columns]


def stitch(tiles: Sequence[Tile], grid_hw: tuple[int, int]) -> sparse.csr_array:
    """(L, L) float64, symmetric and signed: the mean over the tiles that hold both patches.

    Pairs that share no tile have 0.
    """
    total = sum(_spread(window, r.symmetric(), grid_hw) for window, r in tiles)
    times = sum(_spread(window, torch.ones_like(r.matrix), grid_hw) for window, r in tiles)
    times.data = 1 / times.data
    return sparse.csr_array(total.multiply(times))


def _spread(window: Window, matrix: Tensor, grid_hw: tuple[int, int]) -> sparse.csr_array:
    """(l, l) of a tile -> (L, L) of the image."""
    patches = window.patches(grid_hw)
    rows, columns = np.meshgrid(patches, patches, indexing="ij")
    values = matrix.double().numpy().flatten()
    return sparse.csr_array(
        (values, (rows.flatten(), columns.flatten())), shape=(math.prod(grid_hw),) * 2
    )
