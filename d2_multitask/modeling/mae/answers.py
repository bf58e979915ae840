"""What a masked autoencoder answers for an image in evaluation: always with the same mask."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from d2_multitask.modeling.mae.network import MAENetwork
from d2_multitask.modeling.mae.patches import VARIANCE_EPS, patch_grid


@torch.no_grad()
def reconstruction_result(
    network: MAENetwork,
    images: Tensor,
    *,
    visible: Tensor | None = None,
    mask_ratio: float | None = None,
    noise: Tensor | None = None,
) -> dict[str, Any]:
    """Reconstruct one image.

    Args:
        network: the autoencoder.
        images: (1, 3, H, W), normalised; the patch divides H and W.
        visible: a given visible set, see `MAENetwork.reconstruct`.
        mask_ratio: share of removed patches without one.
        noise: (1, L), which of them.

    Returns:
        ``reconstruction`` (3, H, W) float32, 0-255, channels as in the image, of all patches;
        ``patch_mask`` (h, w) bool, True = removed; ``patch_error`` (h, w), mean squared error of
        each patch in the loss's units; ``patch_variance`` (h, w), the same error of a prediction
        that knows each patch's mean colour alone.
    """
    h, w = patch_grid((images.shape[-2], images.shape[-1]), network.patch_size)
    output = network.reconstruct(images, visible, mask_ratio=mask_ratio, noise=noise)
    return {
        "reconstruction": network.to_pixels(images, output.pred)[0],
        "patch_mask": output.mask.bool().view(h, w),
        "patch_error": output.error.view(h, w),
        "patch_variance": patch_variance(network, images).view(h, w),
    }


def patch_variance(network: MAENetwork, images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, L): mean squared distance from each channel's mean, loss's units."""
    patches = network.patchify(images.float())
    colors = patches.unflatten(-1, (network.patch_size**2, -1))  # (N, L, p * p, 3)
    variance = colors.var(2, unbiased=False).mean(-1)
    if network.norm_pix_loss:
        variance = variance / (patches.var(-1) + VARIANCE_EPS)
    return variance


def image_noise(batched_input: dict[str, Any], num_patches: int, seed: int) -> Tensor:
    """(1, L): always the same for an image, on every device and in any order of images.

    It depends on the seed, the last part of ``file_name`` and the number of patches only.
    """
    name = str(batched_input.get("file_name", batched_input.get("image_id", "")))
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    return torch.rand(1, num_patches, generator=generator)
