"""Masks as COCO's compressed run lengths, without pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np


def encode(mask: np.ndarray) -> dict[str, Any]:
    """A mask as pycocotools' ``encode`` gives it, ready for JSON.

    Args:
        mask: (h, w) bool.

    Returns:
        ``size`` [h, w] and ``counts``, text: five bits of a number in each character, lowest first,
        bit 5 set when more follow; from the fourth run on, the difference to the run before the
        previous one.
    """
    pixels = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    # The first run is of absent pixels, maybe none.
    ends = np.concatenate(([0] if pixels[0] else [], changes, [pixels.size])).astype(np.int64)
    runs = np.diff(ends, prepend=0)
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    rest = numbers[:, None] >> 5 * np.arange(1, 8)  # what is left after each character
    codes = numbers[:, None] >> 5 * np.arange(7) & 31
    more = np.where(codes & 16, rest != -1, rest != 0)
    written = np.ones_like(more)
    written[:, 1:] = np.logical_and.accumulate(more, axis=1)[:, :-1]
    characters = (codes + 32 * more + 48)[written].astype(np.uint8)
    return {"size": list(mask.shape), "counts": characters.tobytes().decode("ascii")}
