"""A masked autoencoder that computes in milliseconds, with weights that are not at their start."""

from __future__ import annotations

from typing import Any

import torch

from convert_mae_weights import from_authors_names
from d2_multitask.modeling.mae import MAEDecoder, MAEEncoder, MaskedAutoencoder
from d2_multitask.modeling.mae.weights import is_decoder_name


def small_mae(
    image_size: int | tuple[int, int] = 32, patch_size: int = 8, seed: int = 0, **arguments: Any
) -> MaskedAutoencoder:
    """Two blocks of 16 channels each half; every learned tensor is random."""
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


DIALECTS = ("authors", "timm", "huggingface_v4", "huggingface_v5", "d2_multitask")
"""Names of tensors that are read."""

# Hugging Face's names of version 4 -> those of version 5.
_TO_V5 = {
    "vit.encoder.layer.": "vit.layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def in_dialect(weights: dict[str, torch.Tensor], dialect: str) -> dict[str, torch.Tensor]:
    """The authors' names -> those of any dialect; timm's files have no decoder."""
    if dialect == "timm":
        return {name: value for name, value in weights.items() if not is_decoder_name(name)}
    if dialect != "huggingface_v5":
        return from_authors_names(weights, dialect)
    result = {}
    for name, value in from_authors_names(weights, "huggingface_v4").items():
        for old, new in _TO_V5.items():
            name = name.replace(old, new)
        result[name] = value
    return result


def authors_weights(model: MaskedAutoencoder) -> dict[str, torch.Tensor]:
    """The model's tensors under the authors' names: our names without the first part."""
    return {name.split(".", 1)[1]: value.clone() for name, value in model.state_dict().items()}
