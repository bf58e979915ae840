from __future__ import annotations

from itertools import islice

import pytest
import torch

from d2_multitask.patch_graph.estimators import (
    ConditionalMeans,
    LeaveOneOut,
    Ridge,
    SingleSource,
    balanced_sets,
    interleaved_sets,
    relative_errors,
    visible_counts,
)
from d2_multitask.patch_graph.relation import Budget, measure_relation
from patch_graph_support import (
    less_row_mean,
    linear_autoencoder,
    numbered_image,
    planted_influence,
)

GRID = (4, 5)
L = 20
K = 5


def usual_error(influence: torch.Tensor, count: int) -> torch.Tensor:
    """(L, 1): mean error of a hidden patch when ``count`` of the others are visible."""
    return 1 - count / (L - 1) * influence.sum(1, keepdim=True)


def measured(kind: str, passes: int, noise: float = 0.0, seed: int = 0, **settings) -> torch.Tensor:
    model = linear_autoencoder(planted_influence(L), noise, seed)
    image = numbered_image(GRID)
    return measure_relation(model, image, kind, Budget(passes), seed=seed, **settings).matrix


def test_ridge_recovers_a_planted_linear_model() -> None:
    influence = planted_influence(L)
    matrix = measured("ridge", 3000, visible_ratios=(K / L,), ridge=0.1)
    expected = less_row_mean(influence) / usual_error(influence, K)
    torch.testing.assert_close(matrix, expected, atol=2e-3, rtol=0)


def test_ridge_recovers_it_from_sets_of_several_sizes_too() -> None:
    matrix = measured("ridge", 3000)
    expected = less_row_mean(planted_influence(L))
    pairs = torch.stack([matrix.flatten(), expected.flatten()])
    assert torch.corrcoef(pairs)[0, 1] > 0.995


def test_ridge_is_the_regression_of_each_patch_by_itself() -> None:
    """Against a plain loop with one explicit dummy for each size of sets, not shrunk."""
    generator = torch.Generator().manual_seed(0)
    estimator = Ridge(6, seed=1, visible_ratios=(0.2, 0.5), ridge=0.7)
    visible = estimator.draw(60)
    errors = torch.rand(60, 6, generator=generator) + 0.5
    estimator.add(visible[:25], errors[:25])
    estimator.add(visible[25:], errors[25:])
    matrix, standard_error = estimator.estimate()
    relative = relative_errors(visible, errors)
    for target in range(6):
        rows = ~visible[:, target]
        sizes = visible[rows].sum(1)
        dummies = torch.stack([sizes == 1, sizes == 3], dim=1)
        x = torch.cat([visible[rows], dummies], dim=1).double()
        penalty = torch.diag(torch.tensor([0.7] * 6 + [0.0] * 2)).double()
        inverse = torch.linalg.inv(x.T @ x + penalty)
        solution = inverse @ x.T @ relative[rows, target].double()
        torch.testing.assert_close(
            matrix[target].double(), -solution[:6], atol=1e-5, rtol=1e-4, msg=str(target)
        )
        covariance = inverse @ x.T @ x @ inverse
        residual = relative[rows, target].double() - x @ solution
        degrees = rows.sum() - torch.trace(x.T @ x @ inverse) + 2  # both intercepts are free
        expected = (residual.square().sum() / degrees * covariance.diagonal()[:6]).sqrt()
        expected[target] = 0
        torch.testing.assert_close(
            standard_error[target].double(), expected, atol=1e-5, rtol=1e-3, msg=str(target)
        )


def test_single_source_is_exact() -> None:
    influence = planted_influence(L)
    matrix = measured("single_source", L)
    expected = less_row_mean(influence) / usual_error(influence, 1)
    torch.testing.assert_close(matrix, expected, atol=1e-6, rtol=1e-5)


def test_conditional_means_converge_to_the_planted_model() -> None:
    influence = planted_influence(L)
    matrix = measured("conditional_means", 6000, visible_ratios=(K / L,))
    # without j, the other patches have a little more room: (L - 1) / (L - 2)
    expected = less_row_mean(influence) / usual_error(influence, K) * (L - 1) / (L - 2)
    torch.testing.assert_close(matrix, expected, atol=0.02, rtol=0)
    assert (matrix - expected).square().mean().sqrt() < 0.005


def test_leave_one_out_is_exact_where_differences_do_not_vary() -> None:
    influence = planted_influence(L)
    matrix = measured("leave_one_out", 3000, visible_ratio=K / L)
    expected = influence / usual_error(influence, K)
    torch.testing.assert_close(matrix, expected, atol=5e-3, rtol=0.05)


@pytest.mark.parametrize("kind", ["ridge", "conditional_means", "leave_one_out"])
def test_more_passes_make_the_expected_error_smaller(kind) -> None:
    model_of = {"leave_one_out": lambda x: x}
    expected = model_of.get(kind, less_row_mean)(planted_influence(L))
    means = []
    for passes in (70, 140, 280, 560):
        found = [measured(kind, passes, noise=0.1, seed=seed) for seed in range(6)]
        means.append(torch.stack([(f - expected).square().mean() for f in found]).mean())
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.5 * means[0]


@pytest.mark.parametrize("kind", [Ridge, ConditionalMeans, LeaveOneOut])
def test_the_standard_error_is_the_spread_between_seeds(kind) -> None:
    influence = planted_influence(L)
    matrices, claimed = [], []
    for seed in range(25):
        model = linear_autoencoder(influence, 0.1, seed)
        estimator = kind(L, seed=seed)
        visible = estimator.draw(300)
        patches = torch.arange(L)
        estimator.add(visible, model.formula(visible.float(), patches))
        matrix, error = estimator.estimate()
        matrices.append(matrix)
        claimed.append(error)
    off = ~torch.eye(L, dtype=torch.bool)
    spread = torch.stack(matrices).var(0)[off].mean().sqrt()
    typical = torch.stack(claimed).square().mean(0)[off].mean().sqrt()
    assert 0.8 < typical / spread < 1.25


@pytest.mark.parametrize("kind", ["single_source", "ridge", "conditional_means", "leave_one_out"])
def test_a_patch_that_is_hard_to_reconstruct_counts_no_more(kind) -> None:
    influence = planted_influence(L)
    difficulty = torch.logspace(-2, 2, L)
    image = numbered_image(GRID)
    easy = measure_relation(linear_autoencoder(influence), image, kind)
    hard = measure_relation(linear_autoencoder(influence, difficulty=difficulty), image, kind)
    torch.testing.assert_close(easy.matrix, hard.matrix, atol=1e-4, rtol=1e-3)


def test_a_perfect_reconstruction_is_no_division_by_zero() -> None:
    for kind in (SingleSource, Ridge, ConditionalMeans, LeaveOneOut):
        estimator = kind(L)
        visible = estimator.draw(estimator.default_passes)
        estimator.add(visible, torch.zeros(len(visible), L))
        matrix, _ = estimator.estimate()
        assert torch.equal(matrix, torch.zeros(L, L)), kind


def test_pairs_that_were_never_observed_have_an_infinite_error() -> None:
    estimator = LeaveOneOut(L, visible_ratio=K / L)
    visible = estimator.draw(K + 1)  # one set V
    estimator.add(visible, torch.rand(K + 1, L))
    matrix, error = estimator.estimate()
    seen = visible[0]
    assert torch.isinf(error[seen][:, ~seen]).all() and not matrix[seen].any()
    assert torch.isfinite(error[~seen][:, seen]).all()


def test_required_passes() -> None:
    # sets of 5 of 20: a pair is hidden and visible with 3 / 16, four times in 22 passes
    assert Ridge(L, visible_ratios=(K / L,)).required_passes == 22
    # once in six sets V of 5 patches, each 6 passes
    assert LeaveOneOut(L, visible_ratio=K / L).required_passes == 36
    assert SingleSource(L).required_passes == SingleSource(L).max_passes == 20


def test_a_negative_ridge_is_refused() -> None:
    with pytest.raises(ValueError, match="Ridge: found -1"):
        Ridge(L, ridge=-1)


def test_relative_errors_by_hand() -> None:
    visible = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1]]).bool()
    errors = torch.tensor([[9.0, 2.0, 1.0], [4.0, 9.0, 3.0], [5.0, 9.0, 9.0]])
    # patch 2 errs 1 and 3 in sets of one: -50 % and +50 % of its mean; others have no comparison
    expected = torch.tensor([[0.0, 0.0, -0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    assert torch.equal(relative_errors(visible, errors), expected)


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
