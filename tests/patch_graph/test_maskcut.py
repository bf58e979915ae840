"""MaskCut on features whose cut is known, and its eigenvector beside a dense solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from d2_multitask.patch_graph.graph import PatchGraph
from d2_multitask.patch_graph.maskcut import MASKCUT, as_foreground, mask_cut, second_eigenvector
from d2_multitask.patch_graph.segmenter import SegmenterSettings, segment_image
from d2_multitask.patch_graph.similarity import patch_places
from mae_support import small_mae

NOTHING = np.zeros((8, 8), int)
SQUARE, BAR, RING = NOTHING.copy(), NOTHING.copy(), np.ones_like(NOTHING)
SQUARE[1:4, 1:4] = 1
BAR[5:7, 2:7] = 1
RING[1:7, 1:7] = 0  # 28 patches around 36


def graph_of(kinds: np.ndarray) -> PatchGraph:
    """Cosines of features (h, w): 0.9 within a kind, 0.1 between kinds, which are no edges."""
    flat = kinds.flatten()
    cosines = np.where(flat[:, None] == flat, 0.9, 0.1)
    np.fill_diagonal(cosines, 0)
    return PatchGraph(cosines, patch_places(kinds.shape).double().numpy(), kinds.shape)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        # The larger of two objects is the cheaper cut: 10 and 9 patches of 64.
        (SQUARE + 2 * BAR, 2 * SQUARE + BAR),
        # Two objects of one kind: their entries are equal, the first in reading order is taken.
        (SQUARE + BAR, SQUARE + 2 * BAR),
        # The smaller side has the largest entry, but all four corners.
        (RING, 1 - RING),
        # Two corners are not too many.
        (np.repeat([[1, 1, 0, 0, 0, 0]], 4, 0), np.repeat([[1, 1, 0, 0, 0, 0]], 4, 0)),
    ],
    ids=["two kinds", "one kind apart", "corners", "two corners"],
)
def test_objects_of_known_features(kinds, expected) -> None:
    np.testing.assert_array_equal(mask_cut(graph_of(kinds)), expected)


def test_no_more_than_three_objects_and_none_of_a_hundredth() -> None:
    kinds = np.zeros((12, 12), int)
    for number, corner in enumerate(((1, 1), (1, 7), (7, 1), (7, 7)), start=1):
        kinds[corner[0] : corner[0] + 3, corner[1] : corner[1] + 3] = number
    assert mask_cut(graph_of(kinds)).max() == 3
    small = np.zeros((12, 12), int)
    small[1:4, 1:4], small[8, 8] = 1, 2  # one patch of 144
    np.testing.assert_array_equal(mask_cut(graph_of(small)), small == 1)


def test_without_any_edge_there_is_no_object() -> None:
    labels = mask_cut(PatchGraph(np.zeros((6, 6)), np.zeros((6, 2)), (2, 3)))
    assert not labels.any()
    assert as_foreground(labels).mask is None and as_foreground(labels).score == -np.inf


def test_the_eigenvector_of_a_dense_solution() -> None:
    features = np.random.default_rng(0).normal(size=(40, 3))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    weights = np.where(features @ features.T > 0.15, 1, 1e-5)
    degrees = np.diag(weights.sum(1))
    values, vectors = linalg.eigh(degrees - weights, degrees)
    assert values[2] - values[1] > 0.01  # it is one vector
    found = second_eigenvector(weights)
    np.testing.assert_allclose(np.abs(found), np.abs(vectors[:, 1]), atol=1e-9)
    assert found[np.abs(found).argmax()] > 0


def test_in_the_place_of_communities() -> None:
    image = torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0))
    settings = SegmenterSettings(kinds=("encoder_features",), foreground=MASKCUT, refine=False)
    found = segment_image(small_mae(32).eval(), image, settings)
    count = found.patch_labels.max()
    assert count >= 1 and found.dendrogram is None and found.passes == 1
    np.testing.assert_array_equal(found.patch_labels, mask_cut(found.graph))
    assert found.scores.tolist() == [0, *(1 / np.arange(1, count + 1))]
    np.testing.assert_array_equal(found.foreground_mask, found.pixel_labels > 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("ridge",)}, "found the relation ridge, expected encoder_features"),
        ({"kinds": ("encoder_features", "ridge")}, "found the relation encoder_features ridge"),
        ({"resolution": 3.0}, "resolution: found 3.0, expected 1.0: it is not used"),
        ({"num_segments": 3}, "num_segments: found 3, expected None"),
    ],
)
def test_what_maskcut_would_not_use_is_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=f"'maskcut': {message}"):
        SegmenterSettings(**{"kinds": ("encoder_features",), "foreground": MASKCUT, **changes})
