"""Thinning of binary maps to lines of one pixel, as in boundary benchmarks.

Guo and Hall, "Parallel thinning with two-subiteration algorithms" (Communications of the ACM 1989),
method A1, as in MATLAB's ``bwmorph(map, 'thin', inf)``, which the BSDS benchmark uses. Both
subiterations are tables over the 3x3 neighbourhood.
"""

from __future__ import annotations

from functools import cache

import numpy as np

# (dy, dx) of the neighbours x1..x8, counterclockwise from the east (y down).
_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))

# If more than 1 / _DENSE of the pixels are looked at, the whole map is faster (measured).
_DENSE = 20


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a binary map until it does not change.

    Connected regions stay connected and holes stay holes; pixels outside of the map are empty.

    Args:
        mask: (H, W), bool or numbers; not 0 = set.

    Returns:
        (H, W) bool.
    """
    height, width = mask.shape
    padded = np.zeros((height + 2, width + 2), dtype=np.uint8)
    padded[1:-1, 1:-1] = mask != 0
    flat = padded.ravel()  # a view
    steps = np.array([dy * (width + 2) + dx for dy, dx in _NEIGHBOURS])
    # Pixels that each subiteration has to look at: all, then those next to a deleted one.
    waiting = [flat != 0, flat != 0]
    deleted_any = True
    while deleted_any:
        deleted_any = False
        for table, mine in zip(_deletion_tables(), waiting, strict=True):
            pixels = np.flatnonzero(mine)
            mine[pixels] = False
            pixels = pixels[flat[pixels] != 0]
            deleted = pixels[table[_neighbourhood_codes(flat, pixels, steps)]]
            if len(deleted):
                deleted_any = True
                flat[deleted] = 0
                around = (deleted[:, None] + steps).ravel()
                waiting[0][around] = True
                waiting[1][around] = True
    return padded[1:-1, 1:-1].astype(bool)


def _neighbourhood_codes(flat: np.ndarray, pixels: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(n,) uint8, bit k-1 says whether neighbour x_k is set."""
    if len(pixels) * _DENSE > len(flat):
        # Of many pixels: shift the whole map, which is padded, instead of picking each neighbour.
        reach = int(np.abs(steps).max())
        end = len(flat) - reach
        shifted = [flat[reach + step : end + step] for step in steps.tolist()]
        everywhere = np.zeros(end - reach, dtype=np.uint8)
        for bit, neighbour in enumerate(shifted):
            everywhere |= neighbour << np.uint8(bit)
        return everywhere[pixels - reach]
    codes = np.zeros(len(pixels), dtype=np.uint8)
    for bit, step in enumerate(steps.tolist()):
        codes |= flat[pixels + step] << np.uint8(bit)
    return codes


@cache
def _deletion_tables() -> tuple[np.ndarray, np.ndarray]:
    """(256,) bool each: whether the first and the second subiteration delete a pixel."""
    codes = np.arange(256)
    x = [None, *((codes >> bit) & 1 for bit in range(8))]  # x[1]..x[8]
    x.append(x[1])
    crossings = sum((1 - x[2 * i - 1]) & (x[2 * i] | x[2 * i + 1]) for i in range(1, 5))
    first_pairs = sum(x[2 * k - 1] | x[2 * k] for k in range(1, 5))
    second_pairs = sum(x[2 * k] | x[2 * k + 1] for k in range(1, 5))
    pairs = np.minimum(first_pairs, second_pairs)
    common = (crossings == 1) & (pairs >= 2) & (pairs <= 3)
    north_east = ((x[2] | x[3] | (1 - x[8])) & x[1]) == 0
    south_west = ((x[6] | x[7] | (1 - x[4])) & x[5]) == 0
    return common & north_east, common & south_west
