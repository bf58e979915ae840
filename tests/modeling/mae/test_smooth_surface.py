from __future__ import annotations

import pytest
import torch

from d2_multitask.modeling.mae.smooth_surface import smooth_surface


def exact(image, hidden):
    """The linear equations of all removed pixels of (C, H, W), solved at once."""
    places = hidden.nonzero().tolist()
    row_of = {tuple(place): row for row, place in enumerate(places)}
    left, right = torch.zeros(len(places), len(places)), torch.zeros(len(places), len(image))
    for row, (y, x) in enumerate(places):
        for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= place[0] < hidden.shape[0] and 0 <= place[1] < hidden.shape[1]):
                continue
            left[row, row] += 1
            if place in row_of:
                left[row, row_of[place]] -= 1
            else:
                right[row] += image[:, place[0], place[1]]
    result = image.clone()
    result[:, hidden] = torch.linalg.solve(left, right).T
    return result


@pytest.mark.parametrize(("patch", "grid_hw"), [(8, (6, 5)), (14, (3, 4))])
def test_against_the_exact_solution(patch, grid_hw):
    torch.manual_seed(0)
    removed = (torch.rand(grid_hw[0] * grid_hw[1]).argsort() >= 8).view(grid_hw)
    colors = torch.randn(1, 2, *(2 * side for side in grid_hw))
    image = torch.nn.functional.interpolate(colors, scale_factor=patch / 2, mode="bicubic")
    hidden = removed.repeat_interleave(patch, 0).repeat_interleave(patch, 1)
    found, expected = smooth_surface(image, removed, patch)[0], exact(image[0], hidden)
    assert torch.equal(found[:, ~hidden], image[0][:, ~hidden])
    error, least = ((image[0] - y)[:, hidden].square().mean() for y in (found, expected))
    assert error.item() == pytest.approx(least.item(), rel=0.01)
    assert (found - expected)[:, hidden].square().mean() < 0.01 * least


def test_one_visible_patch_is_continued_as_a_constant():
    image = torch.rand(1, 1, 4, 6)
    image[..., :2, :2] = 3.0
    removed = torch.ones(2, 3, dtype=torch.bool)
    removed[0, 0] = False
    assert torch.allclose(smooth_surface(image, removed, 2), torch.full((1, 1, 4, 6), 3.0))
