"""Where overlapping tiles of a large image begin."""

from __future__ import annotations

import math


def tile_starts(length: int, tile: int, overlap: float = 0.5) -> list[int]:
    """First pixels (or patches) of tiles along one side; the last tile ends at the border.

    Args:
        length: of the side.
        tile: of a tile.
        overlap: the least share of a tile that its neighbour covers too, in [0, 1).

    Returns:
        Evenly spaced numbers; ``[0]`` if the side is not longer than a tile.
    """
    if length <= tile:
        return [0]
    step = max(tile * (1 - overlap), 1)
    num_steps = math.ceil((length - tile) / step)
    return [round(i * (length - tile) / num_steps) for i in range(num_steps + 1)]
