"""Transformer blocks of encoder and decoder, and how the paper's code initialises them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from d2_multitask.modeling.attention import matrix_is_faster

# MAE's; Detectron2's ViT and PyTorch have 1e-5, Hugging Face 1e-12.
LAYER_NORM_EPS = 1e-6

layer_norm = partial(nn.LayerNorm, eps=LAYER_NORM_EPS)


def build_blocks(
    embed_dim: int, depth: int, num_heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0
) -> nn.ModuleList:
    """Pre-norm blocks of timm, whose attention is PyTorch's scaled dot product.

    In training in bfloat16 on processors it is written out, see
    `d2_multitask.modeling.attention.matrix_is_faster`. timm's ``TIMM_FUSED_ATTN=0`` writes it out
    everywhere.

    Args:
        embed_dim: D.
        depth: number of blocks.
        num_heads: attention heads; they divide D.
        mlp_ratio: width of the hidden layer as a multiple of D.
        drop_path: rate of stochastic depth of the last block, growing linearly from 0.

    Returns:
        Modules (B, T, D) -> (B, T, D).

    Raises:
        ValueError: D is no multiple of the number of heads.
    """
    # Importing it registers all of timm's networks, a second that only MAE's users should pay for.
    from timm.models.vision_transformer import Block

    if embed_dim % num_heads:
        raise ValueError(f"MAE: {num_heads} heads do not divide the {embed_dim} channels")
    rates = torch.linspace(0, drop_path, depth).tolist()
    blocks = nn.ModuleList(
        Block(
            embed_dim,
            num_heads,
            mlp_ratio,
            qkv_bias=True,
            drop_path=rate,
            norm_layer=layer_norm,
        )
        for rate in rates
    )
    for block in blocks:
        block.attn.register_forward_pre_hook(_choose_kernel)
    return blocks


def _choose_kernel(attention: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """``fused_attn`` is what timm's attention looks at."""
    from timm.layers import use_fused_attn

    attention.fused_attn = bool(use_fused_attn()) and not matrix_is_faster(inputs[0])


def init_linear_layers(module: nn.Module) -> None:
    """Xavier-uniform weights, zero biases, for every linear layer below ``module``."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_patch_projection(projection: nn.Conv2d) -> None:
    """Initialise the embedding of patches as a linear layer on their p * p * C numbers."""
    nn.init.xavier_uniform_(projection.weight.view(len(projection.weight), -1))
    nn.init.zeros_(projection.bias)
