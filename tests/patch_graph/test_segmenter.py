from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from d2_multitask.patch_graph.foreground import RULES
from d2_multitask.patch_graph.graph import PatchGraph
from d2_multitask.patch_graph.relation import measure_relation
from d2_multitask.patch_graph.segmenter import (
    SegmenterSettings,
    segment_image,
    segment_scores,
    to_pixels,
)
from mae_support import small_mae
from patch_graph_support import PATCH_SIZE, FakeAutoencoder, numbered_image

GRID = (6, 6)
OBJECT = np.zeros(GRID, bool)
OBJECT[1:5, 2:5] = True
# The background is two halves that know little of each other.
GROUPS = np.where(OBJECT, 2, np.arange(6) >= 3)


def grouped_autoencoder(groups: np.ndarray = GROUPS) -> FakeAutoencoder:
    """A hidden patch errs less, the more of its own group is visible; the halves help a little."""
    flat = torch.from_numpy(groups.flatten()).long()

    def formula(visible: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        here = flat[patches]
        errors = torch.ones(visible.shape)
        for group, helpers in ((0, {0: 0.7, 1: 0.2}), (1, {1: 0.7, 0: 0.2}), (2, {2: 0.9})):
            for other, weight in helpers.items():
                source = here == other
                if source.any():
                    share = visible[:, source].mean(1, keepdim=True)
                    errors[:, here == group] -= weight * share
        return errors

    return FakeAutoencoder(formula)


def test_planted_segments_and_the_object_are_found() -> None:
    image = numbered_image(GRID)
    found = segment_image(grouped_autoencoder(), image, SegmenterSettings(refine=False))
    groups = np.unique(np.stack([found.patch_labels, GROUPS]).reshape(2, -1), axis=1)
    assert groups.shape == (2, 3)  # each segment is one group
    np.testing.assert_array_equal(found.foreground.mask, OBJECT)
    np.testing.assert_array_equal(
        found.foreground_mask, np.kron(OBJECT, np.ones((PATCH_SIZE,) * 2, bool))
    )
    assert found.pixel_labels.shape == (12, 12)
    # larger and larger graphs: the two halves of the background come together first
    np.testing.assert_array_equal(found.dendrogram.labels_at(num_regions=2) == 0, ~OBJECT)
    assert found.relation.passes == 72
    assert found.passes == 72 + found.dendrogram.passes + found.foreground.passes
    assert set(found.seconds) == {
        "relation", "graph", "communities", "growing", "foreground", "refinement"
    }  # fmt: skip
    assert 0 < found.share_after_measuring < 1


def test_segments_follow_regions_of_colours() -> None:
    """Of the pixels that are given: two halves, of which the larger share of patches decides."""
    pixels = np.zeros((24, 24, 3), np.uint8)
    pixels[:, 13:] = 200
    settings = SegmenterSettings(color_regions=2, foreground=None)
    found = segment_image(grouped_autoencoder(), numbered_image(GRID), settings, pixels=pixels)
    left, right = found.pixel_labels[:, :13], found.pixel_labels[:, 13:]
    assert np.ptp(left) == np.ptp(right) == 0
    rows, columns = np.mgrid[:24, :24] * GRID[0] // 24
    for half, label in ((slice(13), left[0, 0]), (slice(13, None), right[0, 0])):
        votes = np.bincount(found.patch_labels[rows, columns][:, half].ravel())
        assert votes.argmax() == label
    # an object that wins no region keeps its patches
    whole = SegmenterSettings(color_regions=1)
    found = segment_image(grouped_autoencoder(), numbered_image(GRID), whole, pixels=pixels)
    np.testing.assert_array_equal(found.foreground_mask, np.kron(OBJECT, np.ones((4, 4), bool)))
    with pytest.raises(ValueError, match="color_regions: found 0, expected at least 1"):
        SegmenterSettings(color_regions=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_segments": 2},
        {"merge_threshold": 0.0},
        {"num_segments": 2, "grow": False},
        {"kinds": ("single_source", "distance")},
        {"num_consensus": 2, "neighbours": None, "locality": 3.0},
        {"foreground": None},
        {"tile_hw": (4, 4)},
        {"foreground": "maskcut", "kinds": ("encoder_features",), "tile_hw": (4, 4)},
        {"kinds": ("single_source", "color"), "tile_hw": (4, 4), "num_segments": 3},
        {"dtype": torch.bfloat16, "passes": 60, "seconds": 1000.0},
    ],
)
def test_settings_on_a_network(changes) -> None:
    image = torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0))
    model = small_mae(32).eval()
    settings = replace(SegmenterSettings(foreground="least_border"), **changes)
    found = segment_image(model, image, settings)
    count = found.patch_labels.max() + 1
    assert found.patch_labels.shape == GRID and found.pixel_labels.shape == (48, 48)
    assert found.scores.shape == (count,) and ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (found.relation is None) == ("tile_hw" in changes)
    assert (found.foreground is None) == (settings.foreground is None)
    if "num_segments" in changes:
        assert count <= changes["num_segments"]
    assert np.isin(found.pixel_labels, found.patch_labels).all()


@pytest.mark.parametrize("rule", RULES)
def test_many_communities_and_every_rule(rule) -> None:
    image = torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0))
    settings = SegmenterSettings(foreground=rule, resolution=4.0)
    found = segment_image(small_mae(32).eval(), image, settings)
    assert found.patch_labels.max() + 1 > 7
    assert found.foreground.rule == rule


def test_the_same_seed_gives_the_same_segments() -> None:
    image = torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0))
    model = small_mae(32).eval()
    first, second = (segment_image(model, image, SegmenterSettings(seed=1)) for _ in range(2))
    np.testing.assert_array_equal(first.pixel_labels, second.pixel_labels)


def test_a_flat_image_is_one_segment_without_an_object() -> None:
    image = torch.full((3, 48, 48), 0.7)
    for changes in ({}, {"tile_hw": (4, 4)}, {"kinds": ("ridge", "single_source")}):
        with warnings.catch_warnings(), np.errstate(all="raise"):
            warnings.simplefilter("error")
            settings = replace(SegmenterSettings(), **changes)
            found = segment_image(small_mae(32).eval(), image, settings)
        assert not found.patch_labels.any() and not found.pixel_labels.any()
        assert found.scores.tolist() == [1.0] and found.foreground_mask is None
        assert found.foreground.mask is None and found.passes == 0


def test_a_flat_image_by_relations_of_one_pass() -> None:
    """The settings for photographs, MaskCut, and the control that looks at no pixel."""
    model = small_mae(96).eval()
    noise = 0.03 * torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    kinds = ("color", "encoder_features", "ridge")
    how = {"shifts": 2, "resolution": 0.3, "grow": False, "foreground": "absorption_time"}
    maskcut = SegmenterSettings(kinds=("encoder_features",), foreground="maskcut")
    for settings in (SegmenterSettings(kinds=kinds, **how), maskcut):
        for image in (torch.full((3, 96, 96), 0.7), 0.7 + noise):
            found = segment_image(model, image, settings)
            assert not found.patch_labels.any() and not found.pixel_labels.any()
            assert found.foreground.mask is None and found.passes == 0
    control = segment_image(model, noise, SegmenterSettings(kinds=("distance",), **how))
    assert control.patch_labels.any() and control.foreground.mask is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_segments": 0}, "num_segments: found 0, expected at least 1"),
        ({"seed": -1}, "seed: found -1, expected at least 0"),
        ({"foreground_threshold": math.nan}, "foreground_threshold: found nan, expected a number"),
        (
            {"merge_threshold": 0.0, "grow": False},
            "Without growing: merge_threshold: found 0.0, expected None: it is not used",
        ),
        (
            {"border_weight": 0.5, "foreground": "least_border"},
            "Foreground 'least_border': border_weight: found 0.5, expected 1.0: it is not used",
        ),
        ({"border_weight": 0.5, "foreground": None}, "Foreground None: border_weight: found 0.5"),
        (
            {"foreground_threshold": 0.5, "foreground": None},
            "Foreground None: foreground_threshold: found 0.5",
        ),
    ],
)
def test_settings_that_would_not_be_used_are_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        SegmenterSettings(**changes)


def test_no_standard_error_is_computed_that_nobody_reads() -> None:
    image = torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0))
    model = small_mae(32).eval()
    found = segment_image(model, image, SegmenterSettings(seed=3, grow=False, foreground=None))
    expected = measure_relation(model, image, seed=3)
    assert found.relation.standard_error is None and expected.standard_error is not None
    assert torch.equal(found.relation.matrix, expected.matrix)


def test_tiles_of_one_colour_are_one_segment() -> None:
    image = torch.randn(3, 32, 96, generator=torch.Generator().manual_seed(0))
    image[..., 32:] = 0.5  # two and a half of five tiles
    found = segment_image(small_mae(32).eval(), image, SegmenterSettings(tile_hw=(4, 4)))
    sky = found.patch_labels[:, 8:]
    assert (sky == sky[0, 0]).all()


def test_pixels_of_another_size() -> None:
    image = torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0))
    pixels = np.random.default_rng(0).integers(0, 255, (70, 50, 3), np.uint8)
    found = segment_image(small_mae(32).eval(), image, pixels=pixels)
    assert found.pixel_labels.shape == (70, 50)


def test_errors_of_the_parts_come_through() -> None:
    image = torch.randn(3, 48, 48)
    model = small_mae(32).eval()
    with pytest.raises(ValueError, match="expected at least"):
        segment_image(model, image, SegmenterSettings(passes=3))
    with pytest.raises(ValueError, match="multiples of the patch"):
        segment_image(model, image[:, :44])
    with pytest.raises(ValueError, match="without a decoder"):
        segment_image(model.encoder, image)


def test_pixels_of_a_normalised_image() -> None:
    image = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 2, 4)
    pixels = to_pixels(image)
    assert pixels.shape == (2, 4, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [0, 128, 255]


def test_scores_by_hand() -> None:
    weights = np.zeros((4, 4))
    weights[0, 1] = weights[1, 0] = 3.0
    weights[1, 2] = weights[2, 1] = 1.0
    graph = PatchGraph(weights, np.zeros((4, 2)), (2, 2))
    # 0 and 1: 6 of 7 inside; 2: nothing inside; 3 has no edge
    assert segment_scores(graph, np.array([[0, 0], [1, 2]])).tolist() == [6 / 7, 0.0, 1.0]
