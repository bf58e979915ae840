"""Weights that come with the package do what their model card says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import d2_multitask
from d2_multitask.modeling.mae.smooth_surface import smooth_surface
from d2_multitask.patch_graph.autoencoder import patch_grid_of
from d2_multitask.patch_graph.estimators import balanced_sets
from d2_multitask.segmenting.images import load_autoencoder, read_ready
from support import REPOSITORY

WEIGHTS = Path(d2_multitask.__file__).parent / "weights"
PHOTOGRAPHS = REPOSITORY / "docs" / "pictures" / "photographs"


@pytest.mark.parametrize(("name", "size"), [("", 64), ("_96", 96)])
def test_the_autoencoders_reconstruct_photographs(name: str, size: int) -> None:
    """As well as a smooth surface does portraits, which are smooth; three quarters are removed.

    With a random last layer it has more than twice that error.
    """
    weights = str(WEIGHTS / f"mae_tiny_imagenet{name}.safetensors")
    words = ["MODEL.WEIGHTS", weights]
    model = load_autoencoder(f"quick/mae_tiny_imagenet{name}.yaml", words)[1]
    total, of_surface = 0.0, 0.0
    for file in sorted(PHOTOGRAPHS.glob("*.jpg")):
        image = read_ready(file, model, size, "RGB").tensor
        grid_hw = patch_grid_of(image, model.patch_size)
        length = grid_hw[0] * grid_hw[1]
        sets = balanced_sets(length, length // 4, (0,))
        visible = torch.stack([next(sets) for _ in range(8)])
        with torch.no_grad():
            found = model.reconstruct(image[None], visible[None])
        total += float(found.loss)
        for one in visible:
            surface = smooth_surface(image[None], ~one.view(grid_hw), model.patch_size)[0]
            share = (~one).float().mean()  # the errors of visible patches are 0
            of_surface += float((surface - image).square().mean() / share) / len(visible)
    assert total < 1.05 * of_surface
