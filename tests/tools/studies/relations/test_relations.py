"""Relations that are measured together are those that are measured alone."""

from __future__ import annotations

import pytest
import torch

from d2_multitask.patch_graph import Budget, measure_relation, measure_shifted, rank_average
from d2_multitask.patch_graph.relation import ESTIMATORS, SIMILARITIES
from mae_support import small_mae
from studies.relations.relations import RELATIONS, Measuring, Variant

IMAGE = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_shared_sets_change_nothing(tmp_path):
    model = small_mae(32).eval()
    measuring = Measuring(model, 50, 3, tmp_path)
    found, grid_hw = measuring.base_relations("a", IMAGE, {"ridge", "conditional_means"})
    assert grid_hw == (4, 4)
    for kind, matrix in found.items():
        alone = measure_relation(model, IMAGE, kind, Budget(50), seed=3).matrix
        assert torch.allclose(matrix, alone, atol=1e-6), kind


def test_what_is_kept_is_read(tmp_path):
    model = small_mae(32).eval()
    first, _ = Measuring(model, 50, 0, tmp_path).base_relations("x/a", IMAGE, {"ridge"})
    # Another seed would measure something else, if it measured.
    again, _ = Measuring(model, 50, 7, tmp_path).base_relations("x/a", IMAGE, {"ridge"})
    assert torch.equal(first["ridge"], again["ridge"])


@pytest.mark.parametrize("kept", [10, -5])
def test_what_is_cut_is_measured_again(tmp_path, kept):
    measuring = Measuring(small_mae(32).eval(), 50, 0, tmp_path)
    first, _ = measuring.base_relations("a", IMAGE, {"ridge"})
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:kept])
    again, _ = measuring.base_relations("a", IMAGE, {"ridge"})
    assert torch.equal(first["ridge"], again["ridge"])
    assert (tmp_path / "a.npz").read_bytes() == content


def test_too_few_passes(tmp_path):
    measuring = Measuring(small_mae(32).eval(), 10, 0, tmp_path)
    with pytest.raises(ValueError, match="found 10 passes.* expected at least"):
        measuring.base_relations("a", IMAGE, {"ridge", "conditional_means"})


def test_mixtures(tmp_path):
    measuring = Measuring(small_mae(32).eval(), 50, 0, tmp_path)
    mixed = Variant(("single_source", "color"))
    found = measuring.relations("a", IMAGE, {"mixed": mixed})["mixed"]
    parts = [
        measure_relation(measuring.model, IMAGE, kind, seed=0)
        for kind in ("single_source", "color")
    ]
    assert torch.allclose(found.matrix, rank_average(parts).matrix)


def test_all_relations_are_of_cells_with_shifts(tmp_path):
    model = small_mae(32).eval()
    measuring = Measuring(model, 50, 0, tmp_path, shifts=2)
    variants = {kind: Variant((kind,)) for kind in ("ridge", "conditional_means", "color")}
    found = measuring.relations("a", IMAGE, variants)
    for kind, relation in found.items():
        budget = None if kind == "color" else Budget(50)
        alone = measure_shifted(model, IMAGE, kind, budget, shifts=2)
        assert relation.grid_hw == (8, 8)
        assert torch.equal(relation.matrix, alone.matrix)


def test_every_kind_of_the_library_is_compared():
    kinds = {kind for variants in RELATIONS.values() for v in variants for kind in v.kinds}
    assert kinds == ESTIMATORS.keys() | SIMILARITIES.keys()
