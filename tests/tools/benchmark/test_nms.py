"""Boxes and masks of detectors that end before suppression, against a case done by hand."""

from __future__ import annotations

import numpy as np

from benchmark.nms import CANDIDATES, suppress_boxes


def test_boxes_and_masks() -> None:
    cells, height, width = CANDIDATES + 20, 16, 12
    rows = np.zeros((1, 4 + 2 + 3, cells), np.float32)
    rows[0, 2:4] = 1e-3  # boxes without area at the corner, weaker than the three below
    rows[0, 4] = 1e-3
    rows[0, :, 0] = [20, 24, 16, 8, 0.1, 0.9, 1, 0, 0]
    rows[0, :, 1] = [20, 24, 16, 9, 0.8, 0.1, 1, 0, 0]  # the same object
    rows[0, :, 2] = [40, 50, 8, 8, 0.7, 0.1, 0, -1, 0]
    prototypes = np.ones((1, 3, height, width), np.float32)
    found, masks = suppress_boxes([rows, prototypes])
    assert found[0, 5] == np.float32(0.9) and found[1, 4] == np.float32(0.7)
    assert not (found[:, 4] == np.float32(0.8)).any()
    assert masks.shape == (64, 48, len(found))
    x = np.flatnonzero(masks[..., 0].any(0))
    y = np.flatnonzero(masks[..., 0].any(1))
    # Its box is 12 to 28 and 20 to 28; a cell of the prototypes is 4 pixels.
    assert abs(x[0] - 12) <= 2 and abs(x[-1] - 27) <= 2
    assert abs(y[0] - 20) <= 2 and abs(y[-1] - 27) <= 2
    assert not masks[..., 1].any()  # its factor is negative


def test_a_file_that_decodes_itself_needs_nothing() -> None:
    assert suppress_boxes([np.zeros((1, 300, 57), np.float32)]) is None
    assert suppress_boxes([np.zeros((1, 64, 64), np.uint8)]) is None
