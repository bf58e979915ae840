"""Dense maps from the network's grid to the image's size."""

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
    cells, whole = maps.shape[1:], all(side % stride == 0 for side in input_size)
    if whole:
        cells = [side // stride for side in input_size]
        maps = maps[:, : cells[0], : cells[1]]
    else:
        # The image ends inside a cell: maps are cut at the input's resolution. Upsampling and
        # resizing are linear, so a product of matrices does both.
        maps = _matrix(cells[0], cells[0] * stride)[: input_size[0]] @ maps
    columns = (
        _matrix(cells[1], output_size[1])
        if whole
        else _cut_matrix(cells[1], stride, input_size[1], output_size[1])
    )
    # Few rows are widened by a product; then each new row is the mean of two, which takes less.
    maps = maps @ columns.T
    lower, upper, share = _neighbours(maps.shape[1], output_size[0])
    resized = maps[:, lower]
    resized *= (1 - share)[:, None]
    resized += maps[:, upper] * share[:, None]
    return resized


def window_maps(
    maps: np.ndarray,
    stride: int,
    input_size: Size,
    window: tuple[int, int, int, int],
    output_size: Size,
) -> np.ndarray:
    """`resize_maps` of an image that is the window y, x, h, w of the network input."""
    y, x, height, width = window
    if (height, width) == input_size:
        return resize_maps(maps, stride, input_size, output_size)
    framed = resize_maps(maps, stride, input_size, input_size)[:, y : y + height, x : x + width]
    return resize_maps(framed, 1, (height, width), output_size)


def best_class(logits: np.ndarray) -> np.ndarray:
    """The channel of the highest value, as ``argmax(0)`` in a fraction of the time.

    Args:
        logits: (C, h, w).

    Returns:
        (h, w) unsigned integers, of 8 bits for up to 256 channels.
    """
    if len(logits) == 2:
        return (logits[1] > logits[0]).view(np.uint8)
    best = logits[0].copy()
    classes = np.zeros(best.shape, np.min_scalar_type(len(logits) - 1))
    for number in range(1, len(logits)):
        np.copyto(classes, number, where=logits[number] > best)
        np.maximum(best, logits[number], out=best)
    return classes


def _neighbours(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bilinear interpolation between the middles of ``size`` pixels.

    Returns:
        For each of the ``wanted`` pixels its two neighbours' indices and the share of the second.
    """
    # In float32 and in this order, as PyTorch computes it: 1000 pixels are 1e-4 off otherwise.
    positions = np.float32(size / wanted) * (np.arange(wanted, dtype=np.float32) + np.float32(0.5))
    positions = (positions - np.float32(0.5)).clip(0, size - 1)
    lower = positions.astype(np.int64)
    return lower, np.minimum(lower + 1, size - 1), positions - lower.astype(np.float32)


@functools.lru_cache(maxsize=16)  # the frames of a video all have one size
def _matrix(size: int, wanted: int) -> np.ndarray:
    """(wanted, size) float32, of `_neighbours`."""
    lower, upper, share = _neighbours(size, wanted)
    matrix, every = np.zeros((wanted, size), np.float32), np.arange(wanted)
    matrix[every, lower] = 1 - share
    matrix[every, upper] += share
    return matrix


@functools.lru_cache(maxsize=16)
def _cut_matrix(cells: int, stride: int, side: int, wanted: int) -> np.ndarray:
    """(wanted, cells): upsampled by the stride, cut to ``side``, resized."""
    return _matrix(side, wanted) @ _matrix(cells, cells * stride)[:side]
