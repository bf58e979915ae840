"""Windows of an image, in patches: one for a small image, overlapping tiles for a large one.

Letters: L = h * w patches of the image, l of a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import MIN_GRID


@dataclass(frozen=True)
class Window:
    """A rectangle of patches.

    Attributes:
        first_yx: its first patch.
        grid_hw: its patches along height and width.
    """

    first_yx: tuple[int, int]
    grid_hw: tuple[int, int]

    def crop(self, image: Tensor, patch_size: int) -> Tensor:
        """(3, H, W) -> the window's pixels (3, h * p, w * p)."""
        (y, x), (h, w) = self.first_yx, self.grid_hw
        rows = slice(y * patch_size, (y + h) * patch_size)
        return image[:, rows, x * patch_size : (x + w) * patch_size]

    def patches(self, image_grid_hw: tuple[int, int]) -> np.ndarray:
        """(l,) int64: indices of the window's patches among those of the image."""
        (y, x), (h, w) = self.first_yx, self.grid_hw
        indices = np.arange(math.prod(image_grid_hw)).reshape(image_grid_hw)
        return indices[y : y + h, x : x + w].flatten()


def tile_starts(length: int, tile: int, overlap: float = 0.5) -> list[int]:
    """First patches of tiles along one side, evenly spread, the last one ending at the border.

    Args:
        length: patches of the side.
        tile: patches of a tile.
        overlap: the least share of a tile that its neighbour covers too, in [0, 1).

    Returns:
        ``[0]`` if the side is not longer than a tile.

    Raises:
        ValueError: a tile of fewer than 2 patches, or the overlap is out of range.
    """
    if tile < MIN_GRID or not 0 <= overlap < 1:
        raise ValueError(
            f"Tiles: found tiles of {tile} patches that overlap by {overlap}, expected at least "
            f"{MIN_GRID} patches and an overlap in [0, 1)"
        )
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    num_steps = math.ceil((length - tile) / step)
    return [round(i * (length - tile) / num_steps) for i in range(num_steps + 1)]


def tile_windows(
    grid_hw: tuple[int, int], tile_hw: tuple[int, int] | None, overlap: float = 0.5
) -> list[Window]:
    """The tiles of a grid, in reading order.

    Args:
        grid_hw: (h, w) of the image.
        tile_hw: (h, w) of a tile, in patches; ``None`` = one window, the whole image.
        overlap: see `tile_starts`.

    Raises:
        ValueError: see `tile_starts`.
    """
    if tile_hw is None:
        return [Window((0, 0), grid_hw)]
    starts = [tile_starts(*sides, overlap) for sides in zip(grid_hw, tile_hw, strict=True)]
    size = (min(tile_hw[0], grid_hw[0]), min(tile_hw[1], grid_hw[1]))
    return [Window((y, x), size) for y in starts[0] for x in starts[1]]
