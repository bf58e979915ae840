"""When PyTorch's fused attention is the slower one."""

from __future__ import annotations

import torch
from torch import Tensor

# Above so many tokens the matrix of weights costs more than the fused kernel's backward pass.
MAX_TOKENS = 768


def matrix_is_faster(tokens: Tensor) -> bool:
    """Whether to write attention out, ``softmax(q k) v``, instead of calling the fused kernel.

    On processors the backward pass of PyTorch's fused kernel in bfloat16 takes two to seven times
    as long as that of the written-out product (PyTorch 2.14, 40 to 577 tokens), so that training
    in mixed precision would be slower than without. The answers are the same up to rounding.

    Args:
        tokens: (..., T, D), what goes into attention, before or after its cast by autocast.
    """
    if tokens.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else tokens.dtype
    return dtype == torch.bfloat16 and tokens.shape[-2] <= MAX_TOKENS
