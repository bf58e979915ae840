"""Maps are resized as the network's own post-processing does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2_multitask.heads import dense
from d2_multitask.runtime.maps import best_class, resize_maps


@pytest.mark.parametrize("stride", [1, 4, 16])
@pytest.mark.parametrize("input_size", [(64, 96), (50, 96), (64, 33), (1, 31)])
@pytest.mark.parametrize("output_size", [(64, 96), (150, 70), (20, 200), (1, 3)])
def test_equal_to_the_heads(stride, input_size, output_size):
    cells = [-(-side // 32) * 32 // stride for side in input_size]
    maps = np.random.default_rng(0).normal(size=(3, *cells)).astype(np.float32)
    expected = dense.resize_maps(torch.from_numpy(maps), stride, input_size, output_size)
    found = resize_maps(maps, stride, input_size, output_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


@pytest.mark.parametrize("channels", [1, 2, 5, 300])
def test_best_class(channels):
    logits = np.random.default_rng(0).integers(0, 9, (channels, 7, 9)).astype(np.float32)  # ties
    assert (best_class(logits) == logits.argmax(0)).all()
