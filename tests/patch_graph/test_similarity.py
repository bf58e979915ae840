from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from d2_multitask.patch_graph.similarity import (
    color_similarity,
    distance_similarity,
    encoder_similarity,
    patch_places,
    raw_pixel_similarity,
)
from mae_support import small_mae

MODEL = SimpleNamespace(patch_size=2)


def image_of(*patches: list[float]) -> torch.Tensor:
    """Four patches of 2 x 2 pixels, each given by its pixels' value in all channels."""
    rows = torch.tensor(patches).view(2, 2, 2, 2).permute(0, 2, 1, 3).reshape(4, 4)
    return rows.expand(3, -1, -1).clone()


def test_colors_are_means_of_patches() -> None:
    # means 0, 1, 1, 3 in three channels; distances in units of sqrt(3): 1 1 3 0 2 2, median 1.5
    image = image_of([0, 0, 0, 0], [1, 1, 1, 1], [0, 2, 2, 0], [3, 3, 3, 3])
    similarity = color_similarity(MODEL, image, scale=1.0)
    # torch's median takes the lower middle: 1
    expected = [math.exp(-(d**2) / 2) for d in (1, 1, 3, 0, 2, 2)]
    found = similarity[tuple(torch.triu_indices(4, 4, offset=1))]
    torch.testing.assert_close(found, torch.tensor(expected))
    with_deviation = color_similarity(MODEL, image, scale=1.0, deviation=True)
    assert similarity[1, 2] == 1.0 and with_deviation[1, 2] < 1.0


def test_raw_pixels_see_what_colors_do_not() -> None:
    image = image_of([0, 0, 0, 0], [1, -1, 1, -1], [1, -1, 1, -1], [-1, 1, -1, 1])
    assert (color_similarity(MODEL, image) + torch.eye(4) == 1).all()
    similarity = raw_pixel_similarity(MODEL, image)
    assert similarity[1, 2] == 1.0 > similarity[0, 1] > similarity[1, 3]


def test_distance_looks_at_no_pixel() -> None:
    images = [torch.randn(3, 4, 6), torch.zeros(3, 4, 6)]
    first, second = (distance_similarity(MODEL, image, distance=2.0) for image in images)
    assert torch.equal(first, second)
    # patches 0 and 5 are one row and two columns apart
    torch.testing.assert_close(first[0, 5], torch.tensor(math.exp(-5 / 8)))


def test_places_are_rows_and_columns() -> None:
    assert patch_places((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_features_are_centred() -> None:
    model = small_mae(32).eval()
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.encoder(image[None])[0, 1:]
    centred = features - features.mean(0)
    expected = torch.nn.functional.cosine_similarity(centred[3], centred[9], dim=0)
    torch.testing.assert_close(encoder_similarity(model, image)[3, 9], expected)


def test_a_model_without_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="SimpleNamespace without an encoder"):
        encoder_similarity(MODEL, torch.zeros(3, 4, 4))
