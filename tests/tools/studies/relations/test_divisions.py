"""From a relation to a foreground, on relations whose segments are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2_multitask.patch_graph import Relation
from mae_support import small_mae
from studies.relations.divisions import (
    CUT,
    EIGENVECTOR_RULE,
    GROWN,
    LOUVAIN,
    Partition,
    centre_disc,
    cheap_foregrounds,
    controls,
    divide,
    foreground_of,
    graph_of,
    inpainting_foregrounds,
    partitions,
)

OBJECT = np.zeros((6, 6), bool)
OBJECT[2:4, 2:5] = True
IMAGE = torch.zeros(3, 48, 48)


@pytest.fixture(scope="module")
def planted() -> Relation:
    """Patches of the object help each other, and so do those of the background."""
    labels = OBJECT.flatten()
    same = torch.from_numpy(labels[:, None] == labels[None]).float()
    return Relation(same.fill_diagonal_(0) + 0.01, (6, 6))


def same_partition(labels: np.ndarray, mask: np.ndarray) -> bool:
    return np.array_equal(labels == labels[2, 2], mask)


@pytest.mark.parametrize("division", [LOUVAIN, CUT])
def test_planted_segments_are_found(planted, division):
    for partition in partitions(division, 1):
        # Louvain with a locality may cut the background; the object stays whole.
        graph = graph_of(planted, division, partition)
        labels = divide(graph, division, partition, small_mae(48), IMAGE)
        if partition.locality is None and partition.share is None:
            assert same_partition(labels, OBJECT)
            found = cheap_foregrounds(labels, division, graph, partition)
            assert np.array_equal(found["least_border"], OBJECT)
            assert division == CUT or np.array_equal(found["absorption_time"], OBJECT)
        elif partition.locality:
            assert "absorption_time" not in cheap_foregrounds(labels, division, graph, partition)


def test_the_cut_names_a_side(planted):
    graph = graph_of(planted, CUT, Partition(0, None))
    labels = divide(graph, CUT, Partition(0, None), small_mae(48), IMAGE)
    found = cheap_foregrounds(labels, CUT, graph, Partition(0, None))[EIGENVECTOR_RULE]
    assert np.array_equal(found, OBJECT)  # the smaller part has the larger entries


def test_growing_leaves_as_many_regions_as_asked_for():
    torch.manual_seed(0)
    relation = Relation(torch.rand(36, 36), (6, 6))
    image = torch.randn(3, 48, 48)
    model = small_mae(48).eval()
    partition = Partition(0, 1.0, 1.4, None, 2)
    graph = graph_of(relation, LOUVAIN, partition)
    start = divide(graph, LOUVAIN, partition, model, image)
    assert start.max() + 1 > 2
    grown = divide(graph, GROWN, partition, model, image)
    assert set(np.unique(grown)) == {0, 1}
    for label in np.unique(start):  # regions are merged, never cut
        assert len(np.unique(grown[start == label])) == 1


def test_the_autoencoder_is_asked_once_for_all_weights(planted):
    model, image = small_mae(48).eval(), torch.randn(3, 48, 48)
    labels = OBJECT.astype(np.int64)
    partition = Partition(0, None)
    graph = graph_of(planted, LOUVAIN, partition)
    found = inpainting_foregrounds(labels, model, image)
    assert list(found) == ["inpainting_error/1", "inpainting_error/2"]
    for rule, mask in found.items():
        assert np.array_equal(
            foreground_of(labels, LOUVAIN, rule, graph, partition, model, image), mask
        )
        assert np.array_equal(mask, OBJECT) or np.array_equal(mask, ~OBJECT)
    single = inpainting_foregrounds(labels * 0, model, image)
    assert not any(mask.any() for mask in single.values())


def test_controls_look_at_no_image():
    found = list(controls((4, 8)))
    assert found[0][:2] == ("whole image", "") and found[0][2].foreground.all()
    disc = centre_disc((4, 8), 0.3)
    assert disc.tolist()[1] == [False, False, True, True, True, True, False, False]
    assert not disc[0].any() and np.array_equal(disc, disc[::-1, ::-1])
