"""A masked autoencoder that computes in milliseconds, with weights that are not at their start."""

from __future__ import annotations

from typing import Any

import torch

from d2_multitask.modeling.mae import MAEDecoder, MAEEncoder, MaskedAutoencoder


def small_mae(
    image_size: int | tuple[int, int] = 32, patch_size: int = 8, seed: int = 0, **arguments: Any
) -> MaskedAutoencoder:
    """Two blocks of 16 channels each half; every learnt tensor is random."""
    torch.manual_seed(seed)
    encoder = MAEEncoder(
        image_size=image_size, patch_size=patch_size, embed_dim=16, depth=2, num_heads=2
    )
    decoder = MAEDecoder(
        encoder_dim=16,
        grid_hw=encoder.grid_hw,
        num_outputs=3 * patch_size**2,
        embed_dim=12,
        depth=2,
        num_heads=3,
    )
    model = MaskedAutoencoder(encoder=encoder, decoder=decoder, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def authors_weights(model: MaskedAutoencoder) -> dict[str, torch.Tensor]:
    """The model's tensors under the authors' names: our names without the first part."""
    return {name.split(".", 1)[1]: value.clone() for name, value in model.state_dict().items()}
