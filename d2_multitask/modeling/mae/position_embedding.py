"""MAE's position embedding: a fixed table of sines and cosines, for any grid of patches.

Letters: D channels, h x w patches, L = h * w in reading order. Coordinates are patch indices (the
centre of the first patch is at 0, 0). The first half of the channels is about x (the column), the
second half about y (the row); each half holds D / 4 sines, then D / 4 cosines.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_multitask.targets.decode import is_recorded

Grid = tuple[int, int]

RESIZE_MODES = ("bicubic", "sincos")

# Largest difference between entries of equal tables; checkpoints in half precision are below it.
_SAME_TABLE = 2e-3


def sincos_position_embedding(
    embed_dim: int, grid_hw: Grid, native_grid_hw: Grid | None = None
) -> Tensor:
    """The table of the authors' code, for rectangular grids too.

    Args:
        embed_dim: D, a multiple of 4.
        grid_hw: (h, w), the patches that get a position.
        native_grid_hw: the grid that the network was trained with; the h x w patches are spread
            over the same image, so that patch i is at (i + 0.5) * native / h - 0.5. ``None``:
            positions are 0, 1, 2, ...

    Returns:
        (L, D) float32.
    """
    if embed_dim % 4:
        raise ValueError(
            f"Position embedding: found {embed_dim} channels, expected a multiple of 4"
        )
    rows, columns = (
        (torch.arange(size, dtype=torch.float64) + 0.5) * native / size - 0.5
        for size, native in zip(grid_hw, native_grid_hw or grid_hw, strict=True)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    frequencies = 10000.0 ** -(torch.arange(embed_dim // 4, dtype=torch.float64) * 4 / embed_dim)
    angles = [axis.reshape(-1, 1) * frequencies for axis in (x, y)]
    halves = [torch.cat([angle.sin(), angle.cos()], dim=1) for angle in angles]
    return torch.cat(halves, dim=1).float()


def fixed_position_embedding(embed_dim: int, grid_hw: Grid) -> nn.Parameter:
    """(1, 1 + L, D): zeros for the class token, then the table; a parameter that is not learned.

    A parameter and not a buffer, as in the authors' code, so it is in every checkpoint.
    """
    positions = sincos_position_embedding(embed_dim, grid_hw)
    table = torch.cat([torch.zeros(1, embed_dim), positions])[None]
    return nn.Parameter(table, requires_grad=False)


def resize_position_embedding(
    table: Tensor, source_grid_hw: Grid, grid_hw: Grid, mode: str = "bicubic"
) -> Tensor:
    """Move a position embedding to another grid of patches of the same image.

    Args:
        table: (1, n + L, D): n tokens without a position (MAE: one, the class token), then the
            patches of the source grid in reading order.
        source_grid_hw: (h, w) of the table.
        grid_hw: (h, w) of the result.
        mode: "bicubic" interpolates, as the authors' fine-tuning, Detectron2 and Hugging Face do;
            "sincos" computes the sines and cosines of the new positions, which is exact.

    Returns:
        (1, n + L', D) in the table's dtype; the tokens without a position are unchanged.

    Raises:
        ValueError: the table has fewer positions than the grid, the mode is unknown, or it is
            "sincos" and the table holds other values.
    """
    if mode not in RESIZE_MODES:
        raise ValueError(f"Position embedding: found mode {mode!r}, expected one of {RESIZE_MODES}")
    h, w = source_grid_hw
    extra = table.shape[1] - h * w
    if extra < 0:
        raise ValueError(
            f"Position embedding: found {table.shape[1]} positions, expected at least {h * w} for "
            f"a grid of {h}x{w}"
        )
    if tuple(source_grid_hw) == tuple(grid_hw):
        return table
    positions = table[:, extra:]
    if mode == "sincos":
        if not _is_sincos(positions[0], (h, w)):
            raise ValueError(
                "Position embedding: the table is not MAE's sines and cosines (it was learned, or "
                "is of another network), so it cannot be computed for another grid; use 'bicubic'"
            )
        new = sincos_position_embedding(table.shape[2], grid_hw, source_grid_hw)
        positions = new[None].to(table)
    else:
        # Not timm's `resample_abs_pos_embed`, which has the same values, but (in timm 1.0.3)
        # returns the table as it is for a square grid with as many patches as the source.
        maps = positions.float().reshape(1, h, w, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
        maps = F.interpolate(maps, size=grid_hw, mode="bicubic", align_corners=False)
        positions = maps.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat([table[:, :extra], positions], dim=1)


def infer_grid(positions: Tensor) -> Grid:
    """The grid (h, w) of a table (L, D), from its values or, of a learned one, from its length.

    Raises:
        ValueError: the table holds no sines and cosines, and L is no square number.
    """
    length, embed_dim = positions.shape
    side = math.isqrt(length)
    if embed_dim % 4 == 0:
        heights = [h for h in range(1, length + 1) if length % h == 0]
        for h in sorted(heights, key=lambda h: abs(h - side)):  # squares are the usual case
            if _is_sincos(positions, (h, length // h)):
                return h, length // h
    if side**2 != length:
        raise ValueError(
            f"Position embedding: found {length} positions, which are no square grid, and values "
            "from which the grid cannot be told either"
        )
    return side, side


def _is_sincos(positions: Tensor, grid_hw: Grid) -> bool:
    expected = sincos_position_embedding(positions.shape[1], grid_hw)
    return bool((positions.detach().float().cpu() - expected).abs().max() < _SAME_TABLE)


class PositionTable:
    """Reads a position embedding at any grid; resized tables that are not learned are cached.

    Args:
        native_grid_hw: (h, w) that the embedding is stored for.
        mode: how other grids are made, see `resize_position_embedding`.
    """

    _CACHE_SIZE = 8  # grids; a training uses one or two

    def __init__(self, native_grid_hw: Grid, mode: str = "bicubic") -> None:
        if mode not in RESIZE_MODES:
            raise ValueError(f"Position embedding: found mode {mode!r}, expected {RESIZE_MODES}")
        self.native_grid_hw = native_grid_hw
        self.mode = mode
        self._cache: dict[tuple, Tensor] = {}

    def __call__(self, table: Tensor, grid_hw: Grid) -> Tensor:
        """(1, 1 + L, D) at the stored grid -> the same at ``grid_hw``."""
        if is_recorded():  # for images of all sizes; the stored grid is among them
            return resize_position_embedding(table, self.native_grid_hw, grid_hw, self.mode)
        if tuple(grid_hw) == tuple(self.native_grid_hw):
            return table
        if table.requires_grad:
            return resize_position_embedding(table, self.native_grid_hw, grid_hw, self.mode)
        # The version changes with every assignment to the table, such as loading weights.
        key = (tuple(grid_hw), table.device, table.dtype, table.data_ptr(), table._version)
        if key not in self._cache:
            if len(self._cache) >= self._CACHE_SIZE:
                self._cache.clear()
            with torch.inference_mode(False), torch.no_grad():
                self._cache[key] = resize_position_embedding(
                    table, self.native_grid_hw, grid_hw, self.mode
                )
        return self._cache[key]
