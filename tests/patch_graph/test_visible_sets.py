from __future__ import annotations

from itertools import islice

import pytest
import torch

from d2_multitask.patch_graph.visible_sets import (
    balanced_sets,
    interleaved_sets,
    visible_counts,
)


def test_every_patch_is_visible_equally_often() -> None:
    # 12 patches in sets of 4: three sets hold each patch once
    sets = torch.stack(list(islice(balanced_sets(12, 4, (0,)), 30)))
    assert (sets.sum(1) == 4).all()
    assert (sets.view(10, 3, 12).sum(1) == 1).all()


@pytest.mark.parametrize("count", [1, 5, 7, 11])
def test_sets_that_do_not_divide_the_patches(count) -> None:
    sets = torch.stack(list(islice(balanced_sets(12, count, (0,)), 50)))
    assert (sets.sum(1) == count).all()
    assert sets.any(0).all()


def test_sizes_take_turns_and_short_runs_start_long_ones() -> None:
    long = torch.stack(list(islice(interleaved_sets(20, [1, 3, 6], seed=5), 31)))
    short = torch.stack(list(islice(interleaved_sets(20, [1, 3, 6], seed=5), 10)))
    assert torch.equal(long[:10], short)
    assert long.sum(1).tolist()[:7] == [1, 3, 6, 1, 3, 6, 1]
    other = torch.stack(list(islice(interleaved_sets(20, [1, 3, 6], seed=6), 10)))
    assert not torch.equal(short, other)


def test_counts() -> None:
    assert visible_counts((0.03, 0.12, 0.25), 144) == [4, 17, 36]
    assert visible_counts((0.03, 0.12, 0.25), 4) == [1]  # each once, at least one
    assert visible_counts((0.99,), 4) == [3]  # at least one is hidden


@pytest.mark.parametrize("ratios", [(), (0.0,), (0.5, 1.0)])
def test_bad_ratios(ratios) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        visible_counts(ratios, 10)
