from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2_multitask.patch_graph import (
    Budget,
    SegmenterSettings,
    enlarge,
    graph_from_relation,
    louvain,
    measure_relation,
    measure_shifted,
    segment_image,
)
from d2_multitask.patch_graph.segmenter import measure_tiles, relation_of_patch
from mae_support import small_mae

PATCH = SimpleNamespace(patch_size=8)
IMAGE = torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_mean_over_the_grids_that_hold_two_cells_apart() -> None:
    found = measure_shifted(PATCH, IMAGE, "raw_pixels")
    assert found.grid_hw == (8, 12) and found.name == "raw_pixels"
    relations = {}
    for dy in (0, 1):
        for dx in (0, 1):
            pad = (4 * dx, 4 * dx, 4 * dy, 4 * dy)
            padded = F.pad(IMAGE[None], pad, mode="reflect")[0]
            relations[dy, dx] = measure_relation(PATCH, padded, "raw_pixels")
    for first in ((0, 0), (3, 5), (7, 11)):
        for second in ((0, 1), (1, 1), (2, 7), (4, 5), (6, 11)):
            values = []
            for (dy, dx), relation in relations.items():
                patches = [((y + dy) // 2, (x + dx) // 2) for y, x in (first, second)]
                if patches[0] != patches[1]:
                    one, other = (y * relation.grid_hw[1] + x for y, x in patches)
                    values.append(relation.matrix[one, other].item())
            index = [y * 12 + x for y, x in (first, second)]
            assert found.matrix[index[0], index[1]].item() == pytest.approx(np.mean(values), 1e-5)
    torch.testing.assert_close(found.matrix, found.matrix.T)
    assert not found.matrix.diagonal().any()


def test_an_edge_inside_of_patches_is_found() -> None:
    image = torch.zeros(3, 32, 32)
    image[..., 12:] = 1
    image += 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    expected = (np.arange(8) >= 3)[None].repeat(8, 0)  # cell 3 is half of a patch
    relation = measure_shifted(PATCH, image, "color")
    labels = louvain(graph_from_relation(relation), resolution=0.5)[-1].reshape(8, 8)
    np.testing.assert_array_equal(labels == labels[0, -1], expected)
    np.testing.assert_array_equal(labels == labels[0, 0], ~expected)


def test_one_shift_is_the_relation_itself() -> None:
    model = small_mae(32, 8).eval()
    image = IMAGE[:, :, :32]
    found = measure_shifted(model, image, shifts=1, seed=3)
    alone = measure_relation(model, image, seed=3)
    torch.testing.assert_close(found.matrix, alone.matrix, rtol=0, atol=0)
    assert enlarge(image, 1) is image


def test_every_shift_has_a_budget_and_sets_of_its_own() -> None:
    model = small_mae(32, 8).eval()
    image = IMAGE[:, :, :32]
    relation = measure_shifted(model, image, "ridge", Budget(passes=80), seed=3)
    assert relation.passes == 4 * 80
    other = measure_shifted(model, image, "ridge", Budget(passes=80), seed=3)
    torch.testing.assert_close(relation.matrix, other.matrix, rtol=0, atol=0)


@pytest.mark.parametrize("shifts", [0, 3, 16])
def test_shifts_divide_the_patch(shifts) -> None:
    with pytest.raises(ValueError, match=f"found {shifts}, expected a divisor of the patch's side"):
        measure_shifted(PATCH, IMAGE, "color", shifts=shifts)


@pytest.mark.parametrize("tile_hw", [None, (4, 4)])
def test_segments_of_cells(tile_hw) -> None:
    model = small_mae(32, 8).eval()
    settings = SegmenterSettings(shifts=2, tile_hw=tile_hw, num_segments=3)
    found = segment_image(model, IMAGE, settings)
    assert found.patch_labels.shape == (8, 12) == found.graph.grid_hw
    assert found.pixel_labels.shape == (32, 48)
    assert found.dendrogram is not None and found.foreground is not None
    tiles = measure_tiles(model, IMAGE, settings)
    assert [t[0].grid_hw for t in tiles] == [t[1].grid_hw for t in tiles]
    assert relation_of_patch(model, IMAGE, settings, (0.99, 0.99)).patch_yx == (7, 11)
