"""Relations that take at most one pass of the encoder: features, colours, pixels, distance.

Letters: L patches.
"""

from __future__ import annotations

from torch import Tensor

from d2_multitask.patch_graph.autoencoder import Autoencoder


def encoder_similarity(model: Autoencoder, image: Tensor) -> Tensor:
    """(L, L)."""
    raise NotImplementedError


def color_similarity(model: Autoencoder, image: Tensor) -> Tensor:
    """(L, L)."""
    raise NotImplementedError


def raw_pixel_similarity(model: Autoencoder, image: Tensor) -> Tensor:
    """(L, L)."""
    raise NotImplementedError


def distance_similarity(model: Autoencoder, image: Tensor) -> Tensor:
    """(L, L)."""
    raise NotImplementedError
