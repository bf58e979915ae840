from __future__ import annotations

import numpy as np
import pytest
import torch

from d2_multitask.patch_graph.growing import Dendrogram, Merge, grow, region_adjacency
from mae_support import small_mae
from patch_graph_support import FakeAutoencoder, numbered_image

GRID = (4, 6)
# Six regions, two columns each wide, in two rows.
REGIONS = np.array([[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2)
# Regions of the same letter are one object.
OBJECTS = {"a": (0, 1), "b": (2, 5), "c": (3, 4)}


def object_autoencoder(weights: dict[str, float]) -> FakeAutoencoder:
    """A hidden patch errs 1, less its object's weight times the visible share of its object."""
    letter_of = {region: letter for letter, regions in OBJECTS.items() for region in regions}
    letters = np.array([letter_of[region] for region in REGIONS.flatten()])

    def formula(visible: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        here = letters[patches.numpy()]
        errors = torch.ones(visible.shape)
        for letter, weight in weights.items():
            inside = torch.from_numpy(here == letter)
            if inside.any():
                errors[:, inside] -= weight * visible[:, inside].mean(1, keepdim=True)
        return errors

    return FakeAutoencoder(formula)


def test_planted_pairs_are_merged_first_and_in_the_planted_order() -> None:
    model = object_autoencoder({"a": 0.4, "b": 0.8, "c": 0.6})
    dendrogram = grow(model, numbered_image(GRID), REGIONS, min_regions=3)
    assert [(m.first, m.second, m.new) for m in dendrogram.merges] == [
        (2, 5, 6),
        (3, 4, 7),
        (0, 1, 8),
    ]
    # b: half of the object visible helps 0.4; its usual error over the five regions is 1 - 0.4 / 5
    assert dendrogram.merges[0].score == pytest.approx(1 - 0.6 / 0.92, abs=1e-5)
    expected = np.array([[0, 0, 0, 0, 1, 1]] * 2 + [[2, 2, 2, 2, 1, 1]] * 2)
    np.testing.assert_array_equal(dendrogram.labels_at(num_regions=3), expected)


def test_what_a_merge_does_not_change_is_not_measured_again() -> None:
    model = object_autoencoder({"a": 0.4, "b": 0.8, "c": 0.6})
    dendrogram = grow(model, numbered_image(GRID), REGIONS)
    assert len(dendrogram.merges) == 4  # from six regions to two
    # six regions, and three that merges made; the last one is not needed
    assert dendrogram.passes == 9 == sum(len(call) for call in model.calls)
    first_round = model.calls[0]
    assert first_round.shape == (6, 24)
    assert model.calls[1].reshape(GRID).numpy().tolist() == np.isin(REGIONS, [2, 5]).tolist()


def test_regions_grow_by_what_is_measured_after_a_merge() -> None:
    """Regions 1 and 2 are joined; only together do they help 0, which then is their best edge."""
    labels = np.array([[0, 1, 2, 3, 4]])
    labels = np.repeat(labels, 2, axis=0)

    def formula(visible: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        column = patches % 5
        share = [visible[:, column == k].mean(1, keepdim=True) for k in range(5)]
        errors = torch.ones(visible.shape)
        errors[:, column == 1] -= 0.5 * share[2]
        errors[:, column == 2] -= 0.5 * share[1]
        errors[:, column == 0] -= 0.9 * share[1] * share[2]
        errors[:, column == 3] -= 0.2 * share[4]
        errors[:, column == 4] -= 0.2 * share[3]
        return errors

    dendrogram = grow(FakeAutoencoder(formula), numbered_image((2, 5)), labels)
    assert [(m.first, m.second) for m in dendrogram.merges] == [(1, 2), (0, 5), (3, 4)]


def test_a_threshold_ends_it() -> None:
    model = object_autoencoder({"a": 0.1, "b": 0.8, "c": 0.6})
    dendrogram = grow(model, numbered_image(GRID), REGIONS, threshold=0.2)
    assert [(m.first, m.second) for m in dendrogram.merges] == [(2, 5), (3, 4)]


def test_regions_that_do_not_touch() -> None:
    letters = np.isin(REGIONS, [0, 5]).flatten()  # far apart, one object
    neighbours = np.isin(REGIONS, [0, 1]).flatten()

    def formula(visible: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        errors = torch.ones(visible.shape)
        for inside, weight in ((letters, 0.8), (neighbours, 0.2)):
            errors[:, inside] -= weight * visible[:, inside].mean(1, keepdim=True)
        return errors

    image = numbered_image(GRID)
    dendrogram = grow(FakeAutoencoder(formula), image, REGIONS, min_regions=5)
    assert [(m.first, m.second) for m in dendrogram.merges] == [(0, 1)]


def test_regions_grow_across_tiles() -> None:
    """No tile holds a whole object, and each tile's autoencoder sees its own patches only."""
    model = object_autoencoder({"a": 0.4, "b": 0.8, "c": 0.6})
    dendrogram = grow(model, numbered_image(GRID), REGIONS, min_regions=3, tile_hw=(4, 4))
    assert {(m.first, m.second) for m in dendrogram.merges} == {(2, 5), (3, 4), (0, 1)}
    assert {call.shape[1] for call in model.calls} == {16}
    # tiles at columns 0 and 2 hold four regions each, and six of eight merged parts
    assert dendrogram.passes == sum(len(call) for call in model.calls)


def test_a_network_and_its_passes() -> None:
    image = torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(0))
    model = small_mae(32).eval()
    first, second = (grow(model, image, REGIONS, batch_size=size) for size in (None, 2))
    assert first.merges[:-1] == pytest.approx(second.merges[:-1], abs=1e-4)
    assert first.passes == 9 and 0 < first.forward_seconds <= first.seconds
    np.testing.assert_array_equal(first.labels, REGIONS)


def test_labels_at_by_hand() -> None:
    merges = (Merge(1, 2, 4, 0.5), Merge(0, 4, 5, 0.1), Merge(3, 5, 6, 0.3))
    dendrogram = Dendrogram(np.array([[0, 1], [2, 3]]), merges)
    assert dendrogram.labels_at(num_regions=4).tolist() == [[0, 1], [2, 3]]
    assert dendrogram.labels_at(num_regions=2).tolist() == [[0, 0], [0, 1]]
    assert dendrogram.labels_at(threshold=0.2).tolist() == [[0, 1], [1, 2]]
    assert dendrogram.labels_at(threshold=0.2, num_regions=4).tolist() == [[0, 1], [2, 3]]
    assert dendrogram.labels_at().tolist() == [[0, 0], [0, 0]]


def test_nothing_to_grow() -> None:
    model = object_autoencoder({})
    for labels in (np.zeros(GRID, int), (REGIONS > 2).astype(int)):
        dendrogram = grow(model, numbered_image(GRID), labels)
        assert not dendrogram.merges and dendrogram.passes == 0
        np.testing.assert_array_equal(dendrogram.labels_at(), labels)
    flat = grow(model, torch.ones(3, 8, 12), REGIONS)
    assert not flat.merges and not model.calls


def test_perfect_reconstructions_are_no_division_by_zero() -> None:
    model = FakeAutoencoder(lambda visible, _: torch.zeros_like(visible))
    assert not grow(model, numbered_image(GRID), REGIONS).merges


def test_labels_that_do_not_fit_are_refused() -> None:
    model = object_autoencoder({})
    with pytest.raises(ValueError, match=r"\(4, 5\), expected one label for each of the 4x6"):
        grow(model, numbered_image(GRID), REGIONS[:, :5])
    with pytest.raises(ValueError, match="min_regions=0"):
        grow(model, numbered_image(GRID), REGIONS, min_regions=0)


def test_adjacency() -> None:
    touching = region_adjacency(np.array([[0, 1], [2, 1]]))
    assert touching.tolist() == [
        [False, True, True],
        [True, True, True],  # a region touches itself if it has two patches
        [True, True, False],
    ]
