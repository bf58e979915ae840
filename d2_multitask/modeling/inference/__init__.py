"""The same answers from fewer and larger operations: what is free once training is over.

`norms.py` folds batch norms into the convolutions before them, `cellwise.py` computes at the found
cells only what is read there only, `compiling.py` hands the network to ``torch.compile``.
"""

from __future__ import annotations

import copy
import logging

import torch
from torch import nn

from d2_multitask.modeling.inference.at_peaks import make_cellwise
from d2_multitask.modeling.inference.compiling import compile_network
from d2_multitask.modeling.inference.fold_norms import fuse_norms

__all__ = [
    "compile_network",
    "fuse_for_inference",
    "fuse_norms",
    "make_cellwise",
]

logger = logging.getLogger(__name__)


def fuse_for_inference(
    model: nn.Module, *, fused: bool = True, compiled: bool = False
) -> nn.Module:
    """A copy of a network that answers the same, faster, and can no longer be trained.

    Batch norms are folded into their convolutions, and predictions that are read at peaks only are
    computed there only. The copy has other parameters: checkpoints are loaded and saved with
    ``model``, which is not changed.

    Args:
        model: any network, with its weights. What is not known to be equal stays as it is.
        fused: do the above; ``False`` with ``compiled`` shows what the compiler does alone.
        compiled: also run backbone and heads through ``torch.compile``.

    Returns:
        The copy, in evaluation mode, without gradients.
    """
    result = copy.deepcopy(model).eval().requires_grad_(False)
    if fused:
        with torch.no_grad():
            num_norms = fuse_norms(result)
            num_branches = make_cellwise(result)
        logger.debug("%d norms folded, %d branches computed at cells", num_norms, num_branches)
    if compiled:
        compile_network(result)
    return result
