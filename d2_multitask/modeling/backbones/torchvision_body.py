"""A torchvision classifier cut down to its feature maps, with torchvision's own key names."""

from __future__ import annotations

import difflib

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from d2_multitask.modeling.backbones.probe import PROBE_SIZE, WANTED_STRIDES, map_stride, run_probe


def build_torchvision_body(
    name: str, out_nodes: list[str], in_channels: int, pretrained: bool
) -> nn.Module:
    """Build the feature part of a torchvision network.

    Args:
        name: Name of a classification network, as torchvision lists it.
        out_nodes: Nodes to return, in any order. Empty = at each stride the output of the last
            block (`find_last_blocks`); for MobileNetV2 features.3, .6, .13 and .18. So the whole
            feature part is used and all its weights have a place; what a last wide layer costs at
            stride 32 is small (MobileNetV2: about 7 % of its multiplications).
        in_channels: Channels of the images; torchvision's networks take 3.
        pretrained: Download torchvision's default weights.

    Returns:
        A module (N, 3, H, W) -> dict of feature maps, finest first. What comes after the last node
        (pooling, classifier) is not part of it.

    Raises:
        ValueError: Unknown network or node; a network without strides 4, 8, 16 and 32; a number of
            channels other than 3.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME 'torchvision/{name}': torchvision has no such "
            f"classification network. Similar names: {', '.join(close) or 'none'}"
        )
    if in_channels != 3:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME 'torchvision/{name}' takes images of 3 channels; "
            f"MODEL.PIXEL_MEAN has {in_channels} numbers"
        )
    model = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
    nodes = list(out_nodes) or find_last_blocks(f"torchvision/{name}", model)
    try:
        return create_feature_extractor(model, nodes, suppress_diff_warning=True)
    except ValueError as error:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.OUT_NODES {nodes} do not fit 'torchvision/{name}': {error}"
        ) from error


def find_last_blocks(name: str, model: nn.Module) -> list[str]:
    """Find the last block at each of the strides 4, 8, 16 and 32.

    A block is a child of the network; an `nn.Sequential` whose children have different strides
    (such as MobileNetV2's `features`) is opened and its children are the blocks. The last *layer*
    at a stride would be the wrong choice: the next block often begins at the old stride with its
    expansion (MobileNetV2: 144 instead of 24 channels at stride 4).

    Args:
        name: For error messages.
        model: The network, run once on a small image.

    Returns:
        Four module names, finest first.

    Raises:
        ValueError: The network has no feature map at one of the strides.
    """
    strides = _module_strides(name, model)
    last = {}
    for block in _blocks(model, "", strides):
        last[strides[block]] = block
    missing = [stride for stride in WANTED_STRIDES if stride not in last]
    if missing:
        found = sorted(stride for stride in last if stride is not None)
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME '{name}' has feature maps (N, C, H, W) of the strides "
            f"{found}; expected {list(WANTED_STRIDES)}"
        )
    return [last[stride] for stride in WANTED_STRIDES]


def _module_strides(name: str, model: nn.Module) -> dict[str, int | None]:
    """Stride of each module's output (None = not a feature map), in the order of execution."""
    strides: dict[str, int | None] = {}
    names = {module: path for path, module in model.named_modules()}

    def record(module: nn.Module, _inputs: tuple, output: object) -> None:
        strides[names[module]] = map_stride(output) if isinstance(output, Tensor) else None

    hooks = [module.register_forward_hook(record) for module in names]
    try:
        run_probe(name, model, torch.zeros(1, 3, *PROBE_SIZE))
    finally:
        for hook in hooks:
            hook.remove()
    return strides


def _blocks(module: nn.Module, prefix: str, strides: dict[str, int | None]) -> list[str]:
    """Names of the blocks below `module` that ran, in the order of execution."""
    blocks = []
    for child_name, child in module.named_children():
        name = f"{prefix}{child_name}"
        inner = {strides.get(f"{name}.{grandchild}") for grandchild, _ in child.named_children()}
        mixed = isinstance(child, nn.Sequential) and len(inner) > 1
        if mixed or name not in strides:  # containers such as ModuleList do not run themselves
            blocks += _blocks(child, f"{name}.", strides)
        else:
            blocks.append(name)
    order = list(strides)
    return sorted(blocks, key=order.index)
