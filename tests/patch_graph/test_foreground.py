from __future__ import annotations

import numpy as np
import pytest
import torch

from d2_multitask.patch_graph.foreground import (
    BORDER_RULES,
    RULES,
    border_share,
    choose_foreground,
    merge_smallest,
)
from d2_multitask.patch_graph.graph import graph_from_matrix
from mae_support import small_mae
from patch_graph_support import FakeAutoencoder, numbered_image

# An object of two segments (1, 2) in the middle of a background of two (0, 3).
LABELS = np.array(
    [
        [0, 0, 0, 3, 3, 3],
        [0, 1, 1, 2, 2, 3],
        [0, 1, 1, 2, 2, 3],
        [0, 0, 0, 3, 3, 3],
    ]
)
OBJECT = np.isin(LABELS, [1, 2])


def object_autoencoder() -> FakeAutoencoder:
    """A hidden patch errs 1, less 0.9 times the visible share of the object or the background."""

    def formula(visible: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        errors = torch.ones(visible.shape)
        for inside in (OBJECT.flatten()[patches], ~OBJECT.flatten()[patches]):
            errors[:, inside] -= 0.9 * visible[:, inside].mean(1, keepdim=True)
        return errors

    return FakeAutoencoder(formula)


def test_the_union_that_is_worst_inpainted_is_the_object() -> None:
    model = object_autoencoder()
    foreground = choose_foreground(LABELS, model=model, image=numbered_image(LABELS.shape))
    np.testing.assert_array_equal(foreground.mask, OBJECT)
    # all unions but none and all, each measured once
    assert foreground.passes == 14 == len(foreground.candidates) == len(foreground.scores)
    assert foreground.score == foreground.scores.max() > 0 and foreground.rule == RULES[0]


def test_a_union_and_its_complement_differ_by_the_border_alone() -> None:
    model = object_autoencoder()
    foreground = choose_foreground(
        LABELS, model=model, image=numbered_image(LABELS.shape), border_weight=0.3
    )
    shares = border_share(foreground.candidates)
    without = foreground.scores + 0.3 * shares
    for candidate, score in zip(foreground.candidates, without, strict=True):
        other = (foreground.candidates == ~candidate).all((1, 2))
        assert other.sum() == 1 and without[other][0] == pytest.approx(score)


def test_scores_by_hand() -> None:
    """Three segments in a row, of which the errors are given: e[visible union][patch]."""
    labels = np.array([[0, 1, 2], [0, 1, 2]])
    table = {
        (1, 0, 0): (0, 4, 4), (0, 1, 0): (2, 0, 1), (0, 0, 1): (3, 2, 0),
        (1, 1, 0): (0, 0, 4), (1, 0, 1): (0, 3, 0), (0, 1, 1): (1, 0, 0),
    }  # fmt: skip

    def formula(visible: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        rows = [table[tuple(int(value) for value in row[:3])] for row in visible]
        return torch.tensor(rows).float().repeat(1, 2)

    foreground = choose_foreground(
        labels, model=FakeAutoencoder(formula), image=numbered_image((2, 3)), border_weight=0.0
    )
    # usual errors: (2 + 3 + 1) / 3 = 2, (4 + 2 + 3) / 3 = 3, (4 + 1 + 4) / 3 = 3
    # segment 0: from the rest 1 / 2 - 1; the rest from it 4 / 3 - 1 twice
    index = (foreground.candidates == (labels == 0)).all((1, 2)).argmax()
    assert foreground.scores[index] == pytest.approx(-1 / 2 + 1 / 3)
    # segment 2: from the rest 4 / 3 - 1; the rest from it 3 / 2 - 1 and 2 / 3 - 1
    index = (foreground.candidates == (labels == 2)).all((1, 2)).argmax()
    assert foreground.scores[index] == pytest.approx(1 / 3 + (1 / 2 - 1 / 3) / 2)
    # without a border to tell them apart, the union that comes first in the binary numbers
    np.testing.assert_array_equal(foreground.mask, labels != 2)


def test_border_rules_by_hand() -> None:
    least = choose_foreground(LABELS, "least_border")
    # 1 and 2 have no border and are equally large: the first one
    np.testing.assert_array_equal(least.mask, LABELS == 1)
    assert least.score == pytest.approx(1, abs=1e-5)
    # 8 of 16 border patches, 8 of 24 patches
    assert least.scores[0] == pytest.approx(1 - 0.5 / (8 / 24))
    union = choose_foreground(LABELS, "least_border_union")
    np.testing.assert_array_equal(union.mask, OBJECT)


def test_of_two_segments_without_border_the_larger_one() -> None:
    labels = np.zeros((6, 8), int)
    labels[1:3, 1:3] = 1
    labels[1:5, 4:7] = 2
    np.testing.assert_array_equal(choose_foreground(labels, "least_border").mask, labels == 2)


@pytest.mark.parametrize("rule", BORDER_RULES)
def test_halves_of_an_image_are_no_object(rule) -> None:
    labels = np.repeat([[0, 0, 0, 1, 1, 1]], 4, axis=0)
    assert choose_foreground(labels, rule, threshold=0.2).mask is None


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "absorption_time"])
def test_one_segment_is_no_object(rule) -> None:
    foreground = choose_foreground(np.zeros((3, 3), int), rule)
    assert foreground.mask is None and foreground.score == -np.inf
    assert foreground.candidates.shape == (0, 3, 3)


def test_absorption_finds_what_holds_together_whatever_the_segments() -> None:
    inside = OBJECT.flatten()
    graph = graph_from_matrix((inside[:, None] == inside) + 0.01, LABELS.shape)
    labels = np.arange(LABELS.size).reshape(LABELS.shape)
    foreground = choose_foreground(labels, "absorption_time", graph=graph)
    np.testing.assert_array_equal(foreground.mask, OBJECT)
    assert 0.9 < foreground.score < 1 and foreground.passes == 0
    refused = choose_foreground(labels, "absorption_time", graph=graph, threshold=1.0)
    assert refused.mask is None and refused.score == foreground.score
    for nothing in (0.0, 1.0):  # no edges, or all edges alike
        graph = graph_from_matrix(np.full((24, 24), nothing), LABELS.shape)
        assert choose_foreground(labels, "absorption_time", graph=graph).mask is None


def test_a_high_threshold_is_no_object() -> None:
    foreground = choose_foreground(
        LABELS, model=object_autoencoder(), image=numbered_image(LABELS.shape), threshold=10.0
    )
    assert foreground.mask is None and foreground.score > 0


@pytest.mark.parametrize("rule", RULES)
def test_a_flat_image_is_no_object(rule) -> None:
    inside = OBJECT.flatten()
    graph = graph_from_matrix((inside[:, None] == inside) + 0.01, LABELS.shape)
    how = {"graph": graph, "model": small_mae(32).eval()}
    foreground = choose_foreground(LABELS, rule, image=torch.ones(3, 32, 48), **how)
    assert foreground.mask is None and foreground.passes == 0 and foreground.rule == rule


def test_a_network() -> None:
    image = torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(0))
    first, second = (
        choose_foreground(LABELS, model=small_mae(32).eval(), image=image) for _ in range(2)
    )
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-5)


def test_small_segments_go_to_the_neighbour_with_the_longest_common_edge() -> None:
    labels = np.array([[0, 0, 1, 1], [0, 2, 1, 1], [0, 0, 1, 1]])
    # 2 has three sides to 0 and one to 1
    assert merge_smallest(labels, 2).tolist() == [[0, 0, 1, 1]] * 3
    assert merge_smallest(labels, 1).max() == 0
    assert merge_smallest(labels, 5).tolist() == labels.tolist()
    with pytest.raises(ValueError, match="found count=0, expected at least 1"):
        merge_smallest(labels, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "biggest"}, "'biggest', expected one of"),
        ({}, "needs a model and an image"),
        ({"rule": "absorption_time"}, "needs the graph of the patches"),
        ({"labels": LABELS.flatten(), "rule": "least_border"}, r"\(24,\), expected \(h, w\)"),
    ],
)
def test_bad_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        choose_foreground(**{"labels": LABELS, **arguments})


def test_too_many_segments_are_refused() -> None:
    labels = np.arange(8).reshape(2, 4)
    model = object_autoencoder()
    with pytest.raises(ValueError, match="found 8 segments, expected at most 7"):
        choose_foreground(labels, model=model, image=numbered_image((2, 4)))
