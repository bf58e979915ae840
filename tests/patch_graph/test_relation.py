from __future__ import annotations

import itertools
import math
import time

import pytest
import torch

from d2_multitask.patch_graph.relation import (
    ESTIMATORS,
    SIMILARITIES,
    Budget,
    Relation,
    measure_anytime,
    measure_relation,
    rank_average,
)
from mae_support import small_mae
from patch_graph_support import (
    FakeAutoencoder,
    linear_autoencoder,
    numbered_image,
    planted_influence,
)

GRID = (4, 5)
L = 20
ALL_KINDS = [*ESTIMATORS, *SIMILARITIES]


@pytest.fixture
def model() -> FakeAutoencoder:
    return linear_autoencoder(planted_influence(L))


@pytest.fixture
def photo() -> torch.Tensor:
    return torch.randn(3, 32, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_on_a_network(kind, photo) -> None:
    model = small_mae(32).eval()
    first = measure_relation(model, photo, kind, seed=3)
    second = measure_relation(model, photo, kind, seed=3, batch_size=7)
    assert first.matrix.shape == (12, 12) and first.matrix.dtype == torch.float32
    assert first.grid_hw == (4, 3) and first.name == kind and first.seconds > 0
    assert not first.matrix.diagonal().any() and first.matrix.abs().max() > 0
    torch.testing.assert_close(first.matrix, second.matrix, atol=1e-4, rtol=1e-3)
    symmetric = first.symmetric()
    assert torch.equal(symmetric, symmetric.T)
    torch.testing.assert_close(symmetric[2, 5], (first.matrix[2, 5] + first.matrix[5, 2]) / 2)


@pytest.mark.parametrize("kind", ["ridge", "conditional_means", "leave_one_out"])
def test_another_seed_measures_other_sets(kind, photo) -> None:
    model = small_mae(32).eval()
    matrices = [measure_relation(model, photo, kind, seed=seed).matrix for seed in (0, 0, 1)]
    assert torch.equal(matrices[0], matrices[1]) and not torch.equal(matrices[0], matrices[2])


@pytest.mark.parametrize("kind", [k for k in ALL_KINDS if k != "distance"])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_flat_image_has_no_relation(kind, noise) -> None:
    pixels = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    relation = measure_relation(small_mae(32).eval(), 1.5 + noise * pixels, kind)
    assert torch.equal(relation.matrix, torch.zeros(16, 16)) and relation.passes == 0


def test_the_passes_are_counted(model) -> None:
    for kind, default in (("single_source", 20), ("ridge", 40), ("encoder_features", 1)):
        if kind == "encoder_features":
            model.encoder = lambda images: torch.rand(1, 1 + L, 8)
        assert measure_relation(model, numbered_image(GRID), kind).passes == default
    assert sum(len(call) for call in model.calls) == 60


def test_single_source_needs_no_more_than_all_patches(model) -> None:
    assert measure_relation(model, numbered_image(GRID), "single_source", Budget(999)).passes == L


def test_anytime_estimates_get_better_and_surer(model) -> None:
    model = linear_autoencoder(planted_influence(L), noise=0.1)
    estimates = list(
        measure_anytime(model, numbered_image(GRID), budget=Budget(400), batch_size=20)
    )
    assert [e.passes for e in estimates] == [60, 120, 180, 240, 300, 360, 400]
    errors = [e.standard_error.mean() for e in estimates]
    assert errors[-1] < 0.6 * errors[0]
    last = measure_relation(
        linear_autoencoder(planted_influence(L), noise=0.1), numbered_image(GRID), budget=Budget(60)
    )
    assert last.passes == 60
    torch.testing.assert_close(last.matrix, estimates[0].matrix, atol=1e-5, rtol=1e-4)


def test_you_may_stop_early(model) -> None:
    for relation in measure_anytime(model, numbered_image(GRID), budget=Budget(10**9)):
        if relation.passes >= 500:
            break
    assert 500 <= relation.passes < 1000


def test_no_estimate_before_the_relation_is_identified(model) -> None:
    estimates = measure_anytime(
        model, numbered_image(GRID), "leave_one_out", Budget(60), batch_size=10
    )
    assert [e.passes for e in estimates] == [40, 50, 60]


@pytest.fixture
def ticking(monkeypatch) -> None:
    """A clock that goes on by a millisecond each time somebody looks at it."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) / 1000)


def test_a_budget_of_seconds_ends(model, ticking) -> None:
    relation = measure_relation(
        model, numbered_image(GRID), budget=Budget(seconds=0.05), batch_size=10
    )
    # A round takes 1 ms, so the pace is found to be 1 / 3 ms and later 1 / 30 ms.
    assert 37 <= relation.passes <= 50 * 30
    assert 0.04 < relation.seconds <= 0.055
    assert len(model.calls[0]) == 3  # the first sets find the pace


def test_both_budgets_count(model) -> None:
    budget = Budget(passes=60, seconds=1000)
    assert measure_relation(model, numbered_image(GRID), budget=budget).passes == 60


@pytest.mark.parametrize(
    ("kind", "passes", "needed"), [("single_source", 19, 20), ("ridge", 36, 37)]
)
def test_too_few_passes_are_refused(model, kind, passes, needed) -> None:
    with pytest.raises(ValueError, match=f"found {passes} passes.*expected at least {needed}"):
        measure_relation(model, numbered_image(GRID), kind, Budget(passes))
    assert not model.calls  # nothing is measured in vain


def test_too_few_seconds_are_refused(model, ticking) -> None:
    # Three passes in 1 ms leave nothing: 37 would take 12 of them.
    with pytest.raises(
        ValueError, match="0.001 seconds were enough for 3 passes.*at least 37.*0.012"
    ):
        measure_relation(model, numbered_image(GRID), budget=Budget(seconds=0.001))


def test_fewer_passes_than_patches_are_warned_of() -> None:
    model = linear_autoencoder(planted_influence(100))
    with pytest.warns(UserWarning, match="60 passes are fewer than the 100 coefficients"):
        measure_relation(model, numbered_image((10, 10)), budget=Budget(60))


@pytest.mark.parametrize("budget", [{"passes": 0}, {"seconds": -1.0}, {"seconds": math.nan}])
def test_empty_budgets_are_refused(budget) -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        Budget(**budget)


def test_an_unknown_kind_is_refused(model) -> None:
    with pytest.raises(ValueError, match="'colour', expected one of .*'color'"):
        measure_relation(model, numbered_image(GRID), "colour")


def test_a_matrix_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found a matrix \(5, 5\) for a grid of 2x2"):
        Relation(torch.zeros(5, 5), (2, 2))


def test_ranks_by_hand() -> None:
    first = torch.zeros(3, 3)
    first[0, 1], first[0, 2], first[1, 2] = 4.0, 100.0, -3.0  # ranks 1, 2, 0 of 0..2
    second = torch.zeros(3, 3)
    second[0, 1], second[0, 2], second[1, 2] = 0.2, 0.3, 0.2  # ranks 0.5, 2, 0.5
    relations = [
        Relation(matrix, (1, 3), passes=passes, seconds=1.0, name=name)
        for matrix, passes, name in ((first, 5, "ridge"), (second, 1, "color"))
    ]
    mixture = rank_average(relations)
    expected = torch.tensor([[0, -0.25, 1], [-0.25, 0, -0.75], [1, -0.75, 0]])
    torch.testing.assert_close(mixture.matrix, expected)
    assert mixture.passes == 6 and mixture.seconds == 2.0 and mixture.name == "ridge+color"


def test_ranks_of_equal_pairs_say_nothing() -> None:
    assert not rank_average([Relation(torch.zeros(4, 4), (2, 2))]).matrix.any()


def test_mixtures_of_different_grids_are_refused() -> None:
    relations = [Relation(torch.zeros(4, 4), grid) for grid in ((2, 2), (1, 4))]
    with pytest.raises(ValueError, match=r"\(1, 4\), \(2, 2\)"):
        rank_average(relations)
    with pytest.raises(ValueError, match="expected one and the same"):
        rank_average([])
