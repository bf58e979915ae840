"""Transformer blocks of encoder and decoder: timm's, initialised as in the paper's code."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

# MAE's; Detectron2's ViT and PyTorch have 1e-5, Hugging Face 1e-12.
LAYER_NORM_EPS = 1e-6
# With more tokens, the matrix of attention weights costs more than the fused kernel's backward.
MAX_TOKENS = 768

layer_norm = partial(nn.LayerNorm, eps=LAYER_NORM_EPS)


def build_blocks(
    embed_dim: int, depth: int, num_heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0
) -> nn.ModuleList:
    """timm's pre-norm blocks, whose attention is PyTorch's scaled dot product.

    Where `matrix_is_faster`, attention is computed without the fused kernel; timm's
    ``TIMM_FUSED_ATTN=0`` does so everywhere.

    Args:
        embed_dim: D.
        depth: number of blocks (B, T, D) -> (B, T, D).
        num_heads: attention heads.
        mlp_ratio: width of the hidden layer as a multiple of D.
        drop_path: rate of stochastic depth of the last block, growing linearly from 0.

    Raises:
        ValueError: D is no multiple of the number of heads.
    """
    # Registers all of timm's networks, which takes a second: only for users of MAE.
    from timm.models.vision_transformer import Block

    if embed_dim % num_heads:
        raise ValueError(f"MAE: {num_heads} heads do not divide the {embed_dim} channels")
    rates = torch.linspace(0, drop_path, depth).tolist()
    options = {"qkv_bias": True, "norm_layer": layer_norm}
    blocks = nn.ModuleList(
        Block(embed_dim, num_heads, mlp_ratio, drop_path=rate, **options) for rate in rates
    )
    for block in blocks:
        block.attn.register_forward_pre_hook(_choose_kernel)
    return blocks


def _choose_kernel(attention: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Set ``fused_attn``, which timm's attention reads."""
    from timm.layers import use_fused_attn

    attention.fused_attn = bool(use_fused_attn()) and not matrix_is_faster(inputs[0])


def matrix_is_faster(tokens: Tensor) -> bool:
    """Whether ``softmax(q k) v`` is faster than PyTorch's fused kernel for attention.

    On CPUs the backward pass of the fused kernel in bfloat16 takes two to seven times as long
    (PyTorch 2.14, 40 to 577 tokens), so that training in mixed precision would be slower than
    without. The outputs are the same up to rounding.

    Args:
        tokens: (..., T, D), the input of attention, before or after its cast by autocast.
    """
    if tokens.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else tokens.dtype
    return dtype == torch.bfloat16 and tokens.shape[-2] <= MAX_TOKENS


def init_linear_layers(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer in ``module``."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_patch_projection(projection: nn.Conv2d) -> None:
    """Initialise the embedding of patches as a linear layer on their p * p * C numbers."""
    nn.init.xavier_uniform_(projection.weight.view(len(projection.weight), -1))
    nn.init.zeros_(projection.bias)
