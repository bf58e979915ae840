"""A timm network as a pyramid of feature maps, with timm's own key names."""

from __future__ import annotations

import difflib

from torch import nn

from d2_multitask.modeling.backbones.probe import WANTED_STRIDES


def build_timm_body(name: str, in_channels: int, pretrained: bool) -> nn.Module:
    """Build a timm network that returns its feature maps.

    timm's "getter" wrapper is asked for, because the others rename the parameters (`stem.0.weight`
    becomes `stem_0.weight`), and weight files would no longer fit.

    Args:
        name: Name of the network, as timm lists it.
        in_channels: Channels of the images.
        pretrained: Download timm's default weights.

    Returns:
        A module (N, in_channels, H, W) -> list of feature maps of strides 4, 8, 16 and 32: at each
        stride the last one that timm offers.

    Raises:
        ImportError: timm is not installed.
        ValueError: Unknown network, one that gives no features, or none of the wanted strides.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"MODEL.FEATURE_EXTRACTOR.NAME 'timm/{name}' needs timm: "
            "python -m pip install 'timm>=1.0'"
        ) from error
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME 'timm/{name}': timm has no such network. "
            f"Similar names: {', '.join(similar) or 'none'}"
        )
    options = {"features_only": True, "feature_cls": "getter", "in_chans": in_channels}
    try:
        strides = timm.create_model(name, **options).feature_info.reduction()
    except (AttributeError, RuntimeError) as error:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME 'timm/{name}' gives no feature maps: {error}"
        ) from error
    indices = _last_indices(name, strides)
    return timm.create_model(name, pretrained=pretrained, out_indices=indices, **options)


def _last_indices(name: str, strides: list[int]) -> list[int]:
    """Index of the last feature map at each wanted stride."""
    missing = [stride for stride in WANTED_STRIDES if stride not in strides]
    if missing:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME 'timm/{name}' has feature maps of the strides "
            f"{sorted(set(strides))}; expected {list(WANTED_STRIDES)}"
        )
    last = {stride: index for index, stride in enumerate(strides)}
    return [last[stride] for stride in WANTED_STRIDES]
