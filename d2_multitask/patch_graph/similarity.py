"""Relations that take at most one pass of the encoder: features, colours, pixels, distance.

Letters: L = h * w patches, p pixels a side of a patch, P = p * p * 3. All return (L, L) float32,
symmetric, diagonal 0.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import patch_grid_of


@torch.no_grad()
def encoder_similarity(model: Any, image: Tensor) -> Tensor:
    """Cosine of the encoder's features of all patches less their mean, one pass.

    Features of one image share a large part, which would make all cosines nearly 1.

    Args:
        model: has ``encoder``, see `Autoencoder`.
        image: (3, H, W), normalised.

    Raises:
        ValueError: the model has no encoder.
    """
    encoder = getattr(model, "encoder", None)
    if encoder is None:
        raise ValueError(
            f"Relation 'encoder_features': found {type(model).__name__} without an encoder"
        )
    features = encoder(image[None])[0, 1:].float().cpu()  # (L, D)
    features = F.normalize(features - features.mean(0), dim=1)
    return (features @ features.T).fill_diagonal_(0)


def color_similarity(
    model: Any, image: Tensor, *, scale: float = 0.5, deviation: bool = False
) -> Tensor:
    """exp(-d^2 / (2 s^2)) of mean colours.

    Args:
        model: gives the patch size.
        image: (3, H, W), normalised.
        scale: s as a multiple of the median distance between patches.
        deviation: also compare each channel's standard deviation.
    """
    pixels = _patches(image, model.patch_size).unflatten(1, (3, -1))  # (L, 3, p * p)
    features = pixels.mean(2)
    if deviation:
        features = torch.cat([features, pixels.std(2, unbiased=False)], dim=1)
    return _gaussian(features, scale)


def raw_pixel_similarity(model: Any, image: Tensor, *, scale: float = 0.5) -> Tensor:
    """exp(-d^2 / (2 s^2)) of the patches' pixels; arguments as in `color_similarity`."""
    return _gaussian(_patches(image, model.patch_size), scale)


def distance_similarity(model: Any, image: Tensor, *, distance: float = 2.0) -> Tensor:
    """exp(-d^2 / (2 s^2)) of the patches' places: the control that looks at no image.

    Args:
        model: gives the patch size.
        image: (3, H, W); its size alone is read.
        distance: s, in patches.
    """
    places = patch_places(patch_grid_of(image, model.patch_size))
    similarity = torch.exp(-torch.cdist(places, places).square() / (2 * distance**2))
    return similarity.fill_diagonal_(0)


def patch_places(grid_hw: tuple[int, int]) -> Tensor:
    """(L, 2) float32: (y, x) of each patch, in patches; the first patch's centre is (0, 0)."""
    y, x = torch.meshgrid(*(torch.arange(size) for size in grid_hw), indexing="ij")
    return torch.stack([y.flatten(), x.flatten()], dim=1).float()


def _patches(image: Tensor, patch_size: int) -> Tensor:
    """(3, H, W) -> (L, P), in the order channel, row, column; on the CPU."""
    patch_grid_of(image, patch_size)
    columns = F.unfold(image[None].float().cpu(), patch_size, stride=patch_size)
    return columns[0].T


def _gaussian(features: Tensor, scale: float) -> Tensor:
    """(L, D) -> (L, L)."""
    distances = torch.cdist(features, features)
    first, second = torch.triu_indices(len(features), len(features), offset=1)
    typical = scale * distances[first, second].median()
    if typical <= 0:  # half of the pairs are equal: only equal ones belong together
        return (distances == 0).float().fill_diagonal_(0)
    return torch.exp(-distances.square() / (2 * typical**2)).fill_diagonal_(0)
