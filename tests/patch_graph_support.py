"""Autoencoders whose errors are known formulas of what is visible; graphs with planted groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2_multitask.patch_graph.graph import PatchGraph
from d2_multitask.patch_graph.similarity import patch_places

PATCH_SIZE = 2


class FakeOutput(NamedTuple):
    error: Tensor


class FakeAutoencoder:
    """``formula(visible (M, L) float, patches (L,) int) -> errors (M, L)``.

    The second argument is what `numbered_image` wrote into the patches, so that the formula knows
    where a cut-out comes from.
    """

    patch_size = PATCH_SIZE

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.formula = formula
        self.calls: list[Tensor] = []

    def reconstruct(self, images: Tensor, visible: Tensor) -> FakeOutput:
        numbers = images[0, 0, ::PATCH_SIZE, ::PATCH_SIZE].flatten().round().long()
        self.calls.append(visible[0])
        return FakeOutput(self.formula(visible[0].float(), numbers)[None])


def numbered_image(grid_hw: tuple[int, int]) -> Tensor:
    """(3, h * p, w * p); every pixel has the index of its patch."""
    numbers = torch.arange(grid_hw[0] * grid_hw[1]).reshape(grid_hw).float()
    pixels = numbers.repeat_interleave(PATCH_SIZE, 0).repeat_interleave(PATCH_SIZE, 1)
    return pixels.expand(3, -1, -1).clone()


def planted_influence(num_patches: int, seed: int = 0) -> Tensor:
    """(L, L), a fifth of the pairs help by up to 10 %, not symmetric, diagonal 0."""
    generator = torch.Generator().manual_seed(seed)
    influence = 0.1 * torch.rand(num_patches, num_patches, generator=generator)
    chosen = torch.rand(num_patches, num_patches, generator=generator) < 0.2
    return (influence * chosen).fill_diagonal_(0)


def linear_autoencoder(
    influence: Tensor, noise: float = 0.0, seed: int = 0, difficulty: Tensor | None = None
) -> FakeAutoencoder:
    """e_i(S) = difficulty_i * (1 - sum of influence[i, j] over the visible j + noise)."""
    generator = torch.Generator().manual_seed(seed)
    difficulty = torch.ones(len(influence)) if difficulty is None else difficulty

    def formula(visible: Tensor, patches: Tensor) -> Tensor:
        errors = 1 - visible @ influence[patches][:, patches].T
        errors = errors + noise * torch.randn(errors.shape, generator=generator)
        return difficulty[patches] * errors

    return FakeAutoencoder(formula)


def less_row_mean(influence: Tensor) -> Tensor:
    """Help beyond that of an average other patch: each row's mean off the diagonal is 0."""
    mean = influence.sum(1, keepdim=True) / (len(influence) - 1)
    return (influence - mean).fill_diagonal_(0)


def planted_graph(
    groups: int = 4, size: int = 9, inside: float = 0.8, outside: float = 0.1, seed: int = 0
) -> tuple[PatchGraph, np.ndarray]:
    """A graph on a grid of groups x size patches whose rows are the groups; and their labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(groups), size)
    mean = np.where(labels[:, None] == labels, inside, outside)
    weights = np.triu(mean * generator.uniform(0.5, 1.5, mean.shape), 1)
    places = patch_places((groups, size)).double().numpy()
    return PatchGraph(weights + weights.T, places, (groups, size)), labels
