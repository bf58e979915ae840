from __future__ import annotations

import numpy as np
import pytest

from patch_graph_support import linear_autoencoder, numbered_image, planted_influence
from studies.relations.convergence import (
    convergence_table,
    draw_convergence,
    measure_convergence,
)

GRID = (4, 5)


def curves(**options) -> dict[str, np.ndarray]:
    model = linear_autoencoder(planted_influence(20), noise=0.1)
    images = [numbered_image(GRID)] * 2
    return measure_convergence(model, images, **{"passes": (80, 320), **options})


def test_more_passes_come_closer() -> None:
    found = curves(reference_passes=2000)
    assert list(found) == ["ridge", "conditional_means", "leave_one_out"]
    for kind, values in found.items():
        assert values.shape == (4, 2), kind
        assert (values[:, 1] < values[:, 0]).all(), kind


def test_each_pass_is_measured_once() -> None:
    model = linear_autoencoder(planted_influence(20))
    measure_convergence(
        model, [numbered_image(GRID)], ["ridge"], (50, 60), reference_passes=90, seeds=(0,)
    )
    assert sum(len(call) for call in model.calls) == 90 + 60


@pytest.mark.parametrize("passes", [(80, 70), (80, 80), (), (80, 10**5)])
def test_passes_must_increase(passes) -> None:
    with pytest.raises(ValueError, match="expected increasing numbers up to 1728"):
        curves(passes=passes)


def test_too_few_passes() -> None:
    with pytest.raises(ValueError, match="found 10, expected at least 37 for the relation 'ridge'"):
        curves(passes=(10, 20))


def test_table_and_picture(tmp_path) -> None:
    values = {"ridge": np.array([[0.5, 0.2], [0.7, 0.4]])}
    table = convergence_table(values, (50, 100))
    assert "| relation | 50 passes | 100 passes |" in table
    assert "| `ridge` | 0.600 ± 0.100 | 0.300 ± 0.100 |" in table
    draw_convergence(values, (50, 100), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
