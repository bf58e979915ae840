"""Folds batch norms into the convolutions before them: w' = w g / s, b' = (b - m) g / s + c.

m and s are mean and standard deviation of the running statistics, g and c the affine parameters;
``torch.nn.utils.fusion`` has the arithmetic.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from d2_multitask.modeling.backbones.centernet import DeformableConv2d

logger = logging.getLogger(__name__)

# A network is watched on an image of (1, 2) times this, or more if its strides ask for it.
PROBE_SIDE = 64
# Rounding stays far below, also with TF32; a norm folded into the wrong convolution far above.
TOLERANCE = 0.01


def fuse_norms(model: nn.Module) -> int:
    """Fold the batch norms of a network in evaluation mode, in place.

    Known by structure: Detectron2's ``Conv2d`` and our ``DeformableConv2d`` with their ``norm``: a
    deformable convolution is linear in its weights too, shifts and masks do not depend on them.
    Known by watching the backbone run once: a convolution, also a transposed one, whose output goes
    to a batch norm and to no other module (torchvision, timm). The backbone's answers are compared
    before and after; if they differ, the second kind is undone.

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
    if isinstance(backbone, nn.Module) and any(map(is_foldable, backbone.modules())):
        channels = len(getattr(model, "pixel_mean", (0, 0, 0)))
        model.backbone, watched = _fold_watched(backbone, channels)
        count += watched
    return count


def is_foldable(norm: nn.Module | None) -> bool:
    """Whether a module is a batch norm that acts as a fixed affine map of each channel."""
    if isinstance(norm, _BatchNorm):
        return not norm.training and norm.running_mean is not None
    return isinstance(norm, FrozenBatchNorm2d) or (
        # timm's frozen norm with activation is of neither class.
        type(norm).__name__ == "FrozenBatchNormAct2d" and hasattr(norm, "running_var")
    )


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


def _fold_watched(backbone: nn.Module, channels: int) -> tuple[nn.Module, int]:
    """A copy of ``backbone`` with the norms folded that were seen to follow a convolution.

    Returns:
        the copy and how many norms were folded; ``backbone`` itself and 0 if its answers changed.
    """
    divisor = max(getattr(backbone, "size_divisibility", 0), 1)
    side = -(-PROBE_SIDE // divisor) * divisor
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, channels, side, 2 * side, generator=generator)
    image = image.to(next(backbone.parameters()))
    folded = copy.deepcopy(backbone).eval()  # torchvision's copies forget the mode
    pairs = _watch(folded, image)
    for conv_name, norm_name in pairs:
        norm = folded.get_submodule(norm_name)
        _fold(folded.get_submodule(conv_name), norm)
        # timm's norms carry the activation that follows them.
        folded.set_submodule(norm_name, getattr(norm, "act", None) or nn.Identity())
    if same_answers(backbone(image), folded(image)):
        return folded, len(pairs)
    logger.warning(
        "Folding batch norms would change the answers of %s: not done.", type(backbone).__name__
    )
    return backbone, 0


def _watch(network: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """(convolution, batch norm) by name: what goes from one to the other and nowhere else."""
    names = {module: name for name, module in network.named_modules()}
    calls: Counter[nn.Module] = Counter()
    maker: dict[int, nn.Module] = {}
    readers: dict[int, list[nn.Module]] = defaultdict(list)
    kept: list[Tensor] = []  # a tensor that lives keeps its id to itself

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for value in inputs:
            if isinstance(value, Tensor):
                kept.append(value)
                readers[id(value)].append(module)

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        # In groups, a transposed convolution has its output channels elsewhere than `_fold` says.
        transposed = type(module) is nn.ConvTranspose2d and module.groups == 1
        known = type(module) in (nn.Conv2d, Conv2d) or transposed
        if known and isinstance(output, Tensor):
            kept.append(output)
            maker[id(output)] = module

    hooks = [module.register_forward_pre_hook(before) for module in names]
    hooks += [module.register_forward_hook(after) for module in names]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = []
    for tensor, conv in maker.items():
        readers_of = readers[tensor]
        if len(readers_of) != 1 or not is_foldable(readers_of[0]) or not _is_plain(conv):
            continue
        if calls[conv] == calls[readers_of[0]] == 1:
            pairs.append((names[conv], names[readers_of[0]]))
    return pairs


def _is_plain(conv: nn.Module) -> bool:
    """Whether the convolution's answer is the convolution's alone."""
    return getattr(conv, "norm", None) is None and getattr(conv, "activation", None) is None


def same_answers(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    """Whether two sets of feature maps or predictions are equal but for rounding."""
    return all(
        torch.allclose(
            after[name].float(), value.float(), TOLERANCE, TOLERANCE * float(value.abs().max())
        )
        for name, value in before.items()
    )
