from __future__ import annotations

import math

import pytest
import torch

from d2_multitask.modeling.mae.position_embedding import (
    PositionTable,
    infer_grid,
    resize_position_embedding,
    sincos_position_embedding,
)


def entry(dim: int, x: float, y: float) -> list[float]:
    """One place, number by number, from the definition: x first, sines before cosines."""
    numbers = []
    for coordinate in (x, y):
        angles = [coordinate / 10000 ** (k / (dim // 4)) for k in range(dim // 4)]
        numbers += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    return numbers


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 2)])
def test_every_number_of_small_tables(grid):
    table = sincos_position_embedding(8, grid)
    expected = [entry(8, x, y) for y in range(grid[0]) for x in range(grid[1])]
    assert torch.allclose(table, torch.tensor(expected), atol=1e-6)


def test_x_comes_first():
    table = sincos_position_embedding(8, (2, 2))
    assert torch.equal(table[0, 4:], table[1, 4:])  # one step to the right leaves y as it is
    assert not torch.equal(table[0, :4], table[1, :4])


def test_places_on_a_finer_grid_are_between_the_old_ones():
    table = sincos_position_embedding(8, (4, 2), native_grid_hw=(2, 2))
    expected = [entry(8, x, y) for y in (-0.25, 0.25, 0.75, 1.25) for x in (0, 1)]
    assert torch.allclose(table, torch.tensor(expected), atol=1e-6)


def with_class_token(grid: tuple[int, int], dim: int = 16) -> torch.Tensor:
    return torch.cat([torch.full((1, dim), 7.0), sincos_position_embedding(dim, grid)])[None]


def test_bicubic_keeps_the_class_token_and_interpolates_each_channel():
    table = with_class_token((3, 4))
    resized = resize_position_embedding(table, (3, 4), (6, 5))
    assert resized.shape == (1, 31, 16)
    assert torch.equal(resized[:, 0], table[:, 0])
    channel = table[0, 1:, 5].reshape(1, 1, 3, 4)
    expected = torch.nn.functional.interpolate(channel, size=(6, 5), mode="bicubic")
    assert torch.allclose(resized[0, 1:, 5], expected.flatten(), atol=1e-6)


def test_sincos_is_exact_and_bicubic_is_near_it():
    table = with_class_token((14, 14), 64)
    exact = resize_position_embedding(table, (14, 14), (14, 28), "sincos")
    columns = [(i + 0.5) / 2 - 0.5 for i in range(28)]
    expected = torch.tensor([entry(64, x, 3) for x in columns])
    assert torch.allclose(exact[0, 1 + 3 * 28 : 1 + 4 * 28], expected, atol=1e-5)
    bicubic = resize_position_embedding(table, (14, 14), (14, 28))
    assert (bicubic - exact).norm() / exact.norm() < 0.03


def test_a_learned_table_cannot_be_computed():
    with pytest.raises(ValueError, match="learned.*use 'bicubic'"):
        resize_position_embedding(torch.rand(1, 5, 8), (2, 2), (4, 4), "sincos")


def test_wrong_arguments():
    with pytest.raises(ValueError, match="found mode 'linear'"):
        resize_position_embedding(torch.rand(1, 5, 8), (2, 2), (4, 4), "linear")
    with pytest.raises(ValueError, match="found 5 positions, expected at least 6"):
        resize_position_embedding(torch.rand(1, 5, 8), (2, 3), (4, 4))
    with pytest.raises(ValueError, match="found 6 channels, expected a multiple of 4"):
        sincos_position_embedding(6, (2, 2))


@pytest.mark.parametrize("grid", [(3, 3), (2, 8), (8, 2), (1, 5)])
def test_grid_is_read_off_the_values(grid):
    assert infer_grid(sincos_position_embedding(16, grid)) == grid


def test_grid_of_a_learned_table():
    assert infer_grid(torch.rand(9, 16)) == (3, 3)
    with pytest.raises(ValueError, match="found 6 positions, which are no square"):
        infer_grid(torch.rand(6, 16))


def test_table_is_resized_once_and_again_after_new_weights():
    table = torch.nn.Parameter(with_class_token((2, 2)), requires_grad=False)
    positions = PositionTable((2, 2))
    assert positions(table, (2, 2)) is table
    first = positions(table, (3, 3))
    assert positions(table, (3, 3)) is first
    with torch.no_grad():
        table.copy_(table * 2)
    assert torch.allclose(positions(table, (3, 3)), first * 2)
