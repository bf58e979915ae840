"""The same answers from fewer operations: batch norms in the convolutions, ``torch.compile``.

Folding: w' = w g / s, b' = (b - m) g / s + c. m and s are mean and standard deviation of the
running statistics, g and c the affine parameters; ``torch.nn.utils.fusion`` does the arithmetic.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torch._dynamo import config as dynamo_config
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from d2_multitask.heads.base import Branch
from d2_multitask.modeling.backbones.centernet import DeformableConv2d
from d2_multitask.modeling.inference.at_peaks import compute_at_peaks

logger = logging.getLogger(__name__)

# Answers are compared on an image of (1, 2) times this, or more if the strides ask for it.
PROBE_SIDE = 64
# Rounding stays far below, also with TF32; a norm folded into the wrong convolution far above.
TOLERANCE = 0.01


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
            num_norms = fold_norms(result)
            num_branches = compute_at_peaks(result)
        logger.debug("%d norms folded, %d branches computed at peaks", num_norms, num_branches)
    if compiled:
        compile_network(result)
    return result


def fold_norms(model: nn.Module) -> int:
    """Fold the batch norms of a network in evaluation mode, in place.

    Norms that belong to a convolution, of Detectron2's ``Conv2d`` and our ``DeformableConv2d`` (a
    deformable convolution is linear in its weights too, shifts and masks do not depend on them);
    and, in the backbone, norms that are declared directly after a convolution (torchvision, timm).
    That these also run directly after it is checked: the backbone's outputs are compared, and if
    they differ, all norms of the second kind stay.

    Args:
        model: changed. Norms in training mode are left alone.

    Returns:
        How many norms were folded.
    """
    count = 0
    for module in model.modules():
        if isinstance(module, Conv2d | DeformableConv2d) and is_foldable(module.norm):
            _fold(module, module.norm)
            module.norm = None
            count += 1
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module) and (pairs := conv_norm_pairs(backbone)):
        folded = copy.deepcopy(backbone).eval()  # torchvision's copies forget the mode
        for conv_name, norm_name in pairs:
            norm = folded.get_submodule(norm_name)
            _fold(folded.get_submodule(conv_name), norm)
            # timm's norms contain the activation that follows them.
            folded.set_submodule(norm_name, getattr(norm, "act", None) or nn.Identity())
        image = _probe(backbone, len(getattr(model, "pixel_mean", (0, 0, 0))))
        if same_answers(backbone(image), folded(image)):
            model.backbone = folded
            count += len(pairs)
        else:
            logger.warning(
                "Folding batch norms would change the outputs of %s: not done.",
                type(backbone).__name__,
            )
    return count


def conv_norm_pairs(network: nn.Module) -> list[tuple[str, str]]:
    """(convolution, batch norm) by name, where the norm is declared directly after it."""
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if is_foldable(module) or not any(True for _ in module.children())
    ]
    return [
        (conv_name, norm_name)
        for (conv_name, conv), (norm_name, norm) in itertools.pairwise(layers)
        if is_foldable(norm) and _takes_norm(conv) and conv.out_channels == len(norm.running_mean)
    ]


def is_foldable(norm: nn.Module | None) -> bool:
    """Whether a module is a batch norm that acts as a fixed affine map of each channel."""
    if isinstance(norm, _BatchNorm):
        return not norm.training and norm.running_mean is not None
    return isinstance(norm, FrozenBatchNorm2d)


def _takes_norm(conv: nn.Module) -> bool:
    """Whether a norm may be folded into the module: its output is a convolution's, nothing more."""
    if type(conv) is Conv2d:
        return conv.norm is None and conv.activation is None
    # In groups, a transposed convolution has its output channels elsewhere than `_fold` says.
    return isinstance(conv, nn.Conv2d) or (type(conv) is nn.ConvTranspose2d and conv.groups == 1)


def _fold(conv: nn.Conv2d | nn.ConvTranspose2d | DeformableConv2d, norm: Any) -> None:
    """Give ``conv`` the weights that include ``norm``, in its memory order."""
    order = torch.channels_last
    if not conv.weight.is_contiguous(memory_format=order):
        order = torch.contiguous_format
    weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
        transpose=isinstance(conv, nn.ConvTranspose2d),
    )
    conv.weight = nn.Parameter(weight.detach().contiguous(memory_format=order), False)
    conv.bias = nn.Parameter(bias.detach(), False)


def _probe(backbone: nn.Module, channels: int) -> Tensor:
    """An image on which to compare outputs of the backbone."""
    divisor = max(getattr(backbone, "size_divisibility", 0), 1)
    side = -(-PROBE_SIDE // divisor) * divisor
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, channels, side, 2 * side, generator=generator)
    return image.to(next(backbone.parameters()))


def same_answers(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    """Whether two sets of feature maps or predictions are equal but for rounding."""
    return all(
        torch.allclose(
            after[name].float(), value.float(), TOLERANCE, TOLERANCE * float(value.abs().max())
        )
        for name, value in before.items()
    )


def compile_network(model: nn.Module, **options: Any) -> list[str]:
    """``torch.compile`` the backbone (with its neck) and the branches of the heads, in place.

    Decoding stays as it is: its shapes depend on what is found. Parameter names do not change.
    The first call of each input size takes long.

    Args:
        model: changed; has a ``backbone``.
        options: for ``torch.compile``, e.g. ``backend``.

    Returns:
        Names of the compiled parts.
    """
    parts = {name: part for name, part in model.named_modules() if is_compiled_part(name, part)}
    # All branches are one piece of code to the compiler, which by default stops at eight versions
    # of it; each branch needs one for every kind of input (batch of one, of several, sizes).
    limit = "recompile_limit" if hasattr(dynamo_config, "recompile_limit") else "cache_size_limit"
    setattr(dynamo_config, limit, max(getattr(dynamo_config, limit), 8 * len(parts)))
    for part in parts.values():
        part.compile(**options)
    return list(parts)


def is_compiled_part(name: str, part: nn.Module) -> bool:
    """Whether it is one of the parts that :func:`compile_network` compiles."""
    return name == "backbone" or isinstance(part, Branch)
