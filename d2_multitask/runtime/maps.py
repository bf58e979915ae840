"""Dense maps from the network's grid to the image's size: two matrix products a map."""

from __future__ import annotations

import functools

import numpy as np

Size = tuple[int, int]


def resize_maps(maps: np.ndarray, stride: int, input_size: Size, output_size: Size) -> np.ndarray:
    """As `d2_multitask.heads.dense.resize_maps`.

    Args:
        maps: (C, h, w) float32 on the padded grid.
        stride: input pixels per cell.
        input_size: (h, w) of the network input before padding.
        output_size: (h, w) requested.

    Returns:
        (C, height, width) float32 with (height, width) = ``output_size``.
    """
    # The image may end inside a cell. Then maps are brought to the input's resolution, cut there,
    # and resized; both steps are linear, so they are one matrix an axis.
    whole = all(side % stride == 0 for side in input_size)
    rows, columns = (
        _resize_matrix(cells, stride, side, wanted, whole)
        for cells, side, wanted in zip(maps.shape[1:], input_size, output_size, strict=True)
    )
    return rows @ maps @ columns.T


@functools.lru_cache(maxsize=16)  # the frames of a video all have one size
def _resize_matrix(cells: int, stride: int, side: int, wanted: int, whole: bool) -> np.ndarray:
    """(wanted, cells) float32."""
    if whole:
        matrix = np.zeros((wanted, cells), np.float32)
        matrix[:, : side // stride] = _interpolation(side // stride, wanted)
        return matrix
    upsampled = _interpolation(cells, cells * stride)[:side]
    return (_interpolation(side, wanted) @ upsampled).astype(np.float32)


def _interpolation(size: int, wanted: int) -> np.ndarray:
    """(wanted, size) float64: bilinear interpolation between the middles of pixels."""
    positions = ((np.arange(wanted) + 0.5) * (size / wanted) - 0.5).clip(0, size - 1)
    lower = np.floor(positions).astype(np.int64)
    upper = np.minimum(lower + 1, size - 1)
    matrix = np.zeros((wanted, size))
    every = np.arange(wanted)
    matrix[every, lower] = 1 - (positions - lower)
    matrix[every, upper] += positions - lower
    return matrix
