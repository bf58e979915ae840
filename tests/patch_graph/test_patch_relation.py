"""How a clicked patch is related to the others."""

from __future__ import annotations

import numpy as np
import torch

from d2_multitask.patch_graph import Budget, SegmenterSettings, measure_relation
from d2_multitask.patch_graph.segmenter import relation_of_patch
from mae_support import small_mae


def test_row_and_column_of_the_relation():
    model, image = small_mae(32).eval(), torch.randn(3, 24, 32)
    settings = SegmenterSettings(kinds=("single_source",))
    found = relation_of_patch(model, image, settings, (0.6, 0.4))  # of 4 x 3 patches
    matrix = measure_relation(model, image, "single_source", Budget()).matrix.numpy()
    assert found.patch_yx == (1, 2)
    assert np.allclose(found.helps_it, matrix[6].reshape(3, 4))
    assert np.allclose(found.is_helped, matrix[:, 6].reshape(3, 4))


def test_mixtures_and_tiles():
    model, image = small_mae(32).eval(), torch.randn(3, 32, 64)
    settings = SegmenterSettings(kinds=("color", "encoder_features"), tile_hw=(4, 4))
    found = relation_of_patch(model, image, settings, (0.0, 0.0))
    assert found.helps_it.shape == (4, 8)
    assert np.allclose(found.helps_it, found.is_helped)
    assert found.helps_it[:, 4:].any() == False  # noqa: E712 (no tile holds both)
    assert found.helps_it[:, :4].any()
