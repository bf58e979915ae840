from __future__ import annotations

import pytest
import torch

from d2_multitask.modeling.mae.masking import (
    masking_from_noise,
    masking_from_visible,
    num_visible,
    visible_sets,
)


@pytest.mark.parametrize(
    ("patches", "ratio", "visible"),
    [(196, 0.75, 49), (196, 0.9, 19), (144, 0.75, 36), (64, 0.0, 64)],
)
def test_number_of_visible_patches(patches, ratio, visible):
    assert num_visible(patches, ratio) == visible


@pytest.mark.parametrize(("patches", "ratio"), [(4, 0.9), (64, 1.0), (64, -0.1)])
def test_ratios_that_leave_nothing(patches, ratio):
    with pytest.raises(ValueError, match="Mask ratio: found"):
        num_visible(patches, ratio)


def test_smallest_noise_stays():
    masking = masking_from_noise(torch.tensor([[0.9, 0.1, 0.5, 0.2]]), 2)
    assert masking.ids_keep.tolist() == [[1, 3]]
    assert masking.mask.tolist() == [[1, 0, 1, 0]]
    # "visible, then removed" is 1, 3, 2, 0: patch 0 is the last of them
    assert masking.ids_restore.tolist() == [[3, 0, 2, 1]]


def test_given_sets_are_kept_in_reading_order():
    visible = torch.tensor([[False, True, True, False], [True, False, False, True]])
    masking = masking_from_visible(visible)
    assert masking.ids_keep.tolist() == [[1, 2], [0, 3]]
    assert masking.mask.tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert masking.ids_restore.tolist() == [[2, 0, 1, 3], [0, 2, 3, 1]]


def test_booleans_and_indices_say_the_same():
    mask = torch.tensor([[True, False, True], [False, True, True]])
    indices = torch.tensor([[2, 0], [1, 2]])
    assert torch.equal(visible_sets(mask, 2, 3), visible_sets(indices, 2, 3))
    assert visible_sets(mask[0], 2, 3).tolist() == [[True, False, True]] * 2
    assert visible_sets(indices[:, None].expand(2, 4, 2), 2, 3).shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        pytest.param(torch.zeros(2, 3, dtype=torch.bool), "empty set", id="empty"),
        pytest.param(torch.zeros(2, 0, dtype=torch.long), "empty set", id="no index"),
        pytest.param(torch.ones(2, 4, dtype=torch.bool), "found 4 entries.*expected 3", id="long"),
        pytest.param(torch.ones(1, 3, dtype=torch.bool), "sets for 1 images, expected 2", id="one"),
        pytest.param(torch.tensor([[0, 3], [0, 1]]), "indices 0..3, expected 0..2", id="index"),
        pytest.param(torch.tensor([[0, 0], [0, 1]]), "an index twice", id="twice"),
        pytest.param(torch.ones(2, 3), "float32, expected booleans or indices", id="numbers"),
    ],
)
def test_bad_sets(visible, message):
    with pytest.raises(ValueError, match=message):
        visible_sets(visible, 2, 3)
