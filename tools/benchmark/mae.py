"""Timing of a masked autoencoder: what masking saves, and the step against Hugging Face's network.

Hugging Face's ``ViTMAEForPreTraining`` is optional here (package transformers). It gets the same
sizes and the same weights, so that its predictions can be compared as well.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.timing import Clock, paired_ratio, time_interleaved
from d2_multitask.modeling.mae import MAENetwork
from d2_multitask.modeling.mae.blocks import LAYER_NORM_EPS
from d2_multitask.modeling.mae.weights import to_authors_names

MASK_RATIO = 0.75


def measure_mae(
    model: MAENetwork,
    images: Tensor,
    runs: int,
    warmup: int = 2,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Time encoder and training step; see the module.

    Args:
        model: any size; a few training steps change its weights.
        images: (N, 3, H, W) of the size that its positions are for.
        runs: counted runs of each.
        warmup: runs of each before that.
        clock: see `benchmark.timing.CLOCKS`.

    Returns:
        Milliseconds and ratios by name; without transformers, those that do not need it.
    """
    other = hugging_face_twin(model) if importlib.util.find_spec("transformers") else None
    results = {}
    noise = torch.rand(len(images), model.encoder.grid_hw[0] * model.encoder.grid_hw[1])
    noise = noise.to(images.device)
    if other is not None:
        results["largest difference of predictions"] = _difference(model, other, images, noise)

    @torch.no_grad()
    def encode(mask_ratio: float) -> None:
        model.forward_encoder(images, mask_ratio, noise=noise)

    functions = {
        "encoder, all patches visible": lambda: encode(0.0),
        "encoder, a quarter visible": lambda: encode(MASK_RATIO),
        "training step": _training_step(
            model, lambda: model.reconstruct(images, mask_ratio=MASK_RATIO).loss
        ),
    }
    if other is not None:
        step = _training_step(other, lambda: other(images).loss)
        functions["training step, Hugging Face"] = step
    timings = time_interleaved(functions, runs, warmup, clock=clock)
    results.update({f"{name}, ms": 1e3 * timing.median for name, timing in timings.items()})
    full, quarter, ours, *theirs = timings.values()
    results["encoder: a quarter / all"] = paired_ratio(quarter, full)
    if theirs:
        results["step: ours / Hugging Face"] = paired_ratio(ours, theirs[0])
    return results


def hugging_face_twin(model: MAENetwork) -> nn.Module:
    """Hugging Face's network with the sizes and weights of ours.

    Raises:
        ImportError: transformers is not installed.
    """
    try:
        from transformers import ViTMAEConfig, ViTMAEForPreTraining
    except ImportError as error:
        raise ImportError(
            "The comparison needs the package transformers: "
            "python -m pip install 'd2_multitask[transformers]'"
        ) from error
    encoder, decoder = model.encoder, model.decoder
    other = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=encoder.grid_hw[0] * encoder.patch_size,
            patch_size=encoder.patch_size,
            hidden_size=encoder.embed_dim,
            num_hidden_layers=len(encoder.blocks),
            num_attention_heads=encoder.blocks[0].attn.num_heads,
            intermediate_size=encoder.blocks[0].mlp.fc1.out_features,
            decoder_hidden_size=decoder.decoder_embed.out_features,
            decoder_num_hidden_layers=len(decoder.decoder_blocks),
            decoder_num_attention_heads=decoder.decoder_blocks[0].attn.num_heads,
            decoder_intermediate_size=decoder.decoder_blocks[0].mlp.fc1.out_features,
            mask_ratio=MASK_RATIO,
            norm_pix_loss=model.norm_pix_loss,
            layer_norm_eps=LAYER_NORM_EPS,
        )
    )
    weights = {name.split(".", 1)[1]: value for name, value in model.state_dict().items()}
    names = to_authors_names(other.state_dict()).sources  # query, key and value for each qkv
    other.load_state_dict(
        {
            theirs: part
            for name, value in weights.items()
            for theirs, part in zip(names[name], value.chunk(len(names[name])), strict=True)
        }
    )
    return other.to(model.device).train(model.training)


def _difference(model: MAENetwork, other: nn.Module, images: Tensor, noise: Tensor) -> float:
    with torch.no_grad():
        ours = model.reconstruct(images, mask_ratio=MASK_RATIO, noise=noise).pred
        return (ours - other(images, noise=noise).logits).abs().max().item()


def _training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, foreach=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step
