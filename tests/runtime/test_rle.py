"""Run lengths are pycocotools', byte for byte."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest

from d2_multitask.runtime.rle import encode

RANDOM = np.random.default_rng(0)
MASKS = {
    "empty": np.zeros((7, 5), bool),
    "full": np.ones((7, 5), bool),
    "one-pixel": np.ones((1, 1), bool),
    "first-pixel": np.arange(12).reshape(4, 3) == 0,
    "noise": RANDOM.random((40, 60)) < 0.5,
    "sparse": RANDOM.random((300, 200)) < 0.001,
    "large": np.arange(3000 * 2000).reshape(3000, 2000) > 5_000_000,
    "few-long-runs": np.isin(np.arange(900 * 900).reshape(900, 900), [0, 500_000, 800_000]),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_equal_to_pycocotools(mask):
    expected = mask_util.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    assert encode(mask) == {"size": list(mask.shape), "counts": expected}


def test_a_column_major_mask_and_one_of_bytes():
    mask = MASKS["noise"]
    assert encode(np.asfortranarray(mask)) == encode(mask) == encode(mask.view(np.uint8))
