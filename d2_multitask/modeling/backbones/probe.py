"""Measures strides and channels of foreign networks by running them once on a small image."""

from __future__ import annotations

import math
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

WANTED_STRIDES = (4, 8, 16, 32)

# (h, w). Divisible by 64, and not square, so that a map with channels last is not taken for one
# with channels first; small enough that a global pooling (1 x 1) is no stride in question.
PROBE_SIZE = (128, 192)


def map_stride(feature: Tensor) -> int | None:
    """Stride of a feature map (N, C, h, w) that came from an image of PROBE_SIZE.

    Args:
        feature: Any tensor.

    Returns:
        The stride in image pixels, or None if the tensor is not such a map.
    """
    if feature.dim() != 4:
        return None
    height, width = feature.shape[-2:]
    stride = PROBE_SIZE[0] // height
    return stride if (height * stride, width * stride) == PROBE_SIZE else None


def run_probe(name: str, network: nn.Module, image: Tensor) -> Any:
    """Run a network in evaluation mode, without gradients, and restore its mode.

    Args:
        name: For error messages.
        network: The network.
        image: (1, C, *PROBE_SIZE).

    Returns:
        Its output.

    Raises:
        ValueError: The network does not take an image of this size.
    """
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return network(image)
    except Exception as error:  # whatever a foreign network raises, the cure is the same
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME '{name}' does not run on an image of "
            f"{PROBE_SIZE[0]} x {PROBE_SIZE[1]}: {error}. Expected a network for images of any size"
        ) from error
    finally:
        network.train(was_training)


def measure_features(name: str, features: list[Tensor]) -> dict[str, ShapeSpec]:
    """Name feature maps by their strides.

    Args:
        name: For error messages.
        features: What the network gave for an image of PROBE_SIZE, finest first.

    Returns:
        `{"res2": ShapeSpec(channels, stride=4), "res3": ...}`: Detectron2's names, the number being
        log2 of the stride.

    Raises:
        ValueError: The strides are not 4, 8, 16, ... in this order.
    """
    strides = [map_stride(feature) for feature in features]
    if strides != [4 * 2**level for level in range(len(strides))]:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR '{name}' gives feature maps of the strides {strides} (None: "
            f"the map does not divide the image; shapes {[tuple(f.shape) for f in features]} for "
            f"an image of {PROBE_SIZE}); expected 4, 8, 16, ... in this order"
        )
    return {
        f"res{int(math.log2(stride))}": ShapeSpec(channels=feature.shape[1], stride=stride)
        for stride, feature in zip(strides, features, strict=True)
    }
