"""Images as sequences of patches, and back (arXiv 2111.06377, appendix A).

Letters: N images, C channels, H x W pixels, p pixels a side of a patch, h = H / p and w = W / p
patches, L = h * w. A patch is a vector of p * p * C numbers in the order row, column, channel;
patches are in reading order.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Added to a patch's variance before the division; the authors' number.
VARIANCE_EPS = 1e-6


def patch_grid(image_hw: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Patches along height and width.

    Args:
        image_hw: (H, W) in pixels.
        patch_size: p, in pixels.

    Returns:
        (h, w).

    Raises:
        ValueError: the image is smaller than a patch, or p does not divide its height and width.
    """
    height, width = image_hw
    if min(height, width) < patch_size:
        raise ValueError(
            f"An image of {width}x{height} pixels (width x height) is smaller than a patch of "
            f"{patch_size}x{patch_size}"
        )
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"An image of {width}x{height} pixels (width x height) cannot be cut into patches of "
            f"{patch_size}x{patch_size}; expected multiples of {patch_size}, for example "
            f"{width // patch_size * patch_size}x{height // patch_size * patch_size}"
        )
    return height // patch_size, width // patch_size


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches.

    Args:
        images: (N, C, H, W).
        patch_size: p.

    Returns:
        (N, L, p * p * C).

    Raises:
        ValueError: see `patch_grid`.
    """
    num_images, channels, *image_hw = images.shape
    h, w = patch_grid((image_hw[0], image_hw[1]), patch_size)
    x = images.reshape(num_images, channels, h, patch_size, w, patch_size)
    x = x.permute(0, 2, 4, 3, 5, 1)  # (N, h, w, p, p, C)
    return x.reshape(num_images, h * w, patch_size**2 * channels)


def unpatchify(patches: Tensor, patch_size: int, grid_hw: tuple[int, int]) -> Tensor:
    """Put patches together to images; the inverse of `patchify`.

    Args:
        patches: (N, L, p * p * C).
        patch_size: p.
        grid_hw: (h, w) with h * w = L.

    Returns:
        (N, C, h * p, w * p).

    Raises:
        ValueError: L or the length of a patch does not fit.
    """
    num_images, length, size = patches.shape
    h, w = grid_hw
    channels, rest = divmod(size, patch_size**2)
    if length != h * w or rest or not channels:
        raise ValueError(
            f"Patches: found {length} of {size} numbers, expected {h * w} (for a grid of {h}x{w}) "
            f"of a multiple of {patch_size**2} numbers"
        )
    x = patches.reshape(num_images, h, w, patch_size, patch_size, channels)
    x = x.permute(0, 5, 1, 3, 2, 4)  # (N, C, h, p, w, p)
    return x.reshape(num_images, channels, h * patch_size, w * patch_size)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch, as pixels are normalised with.

    Args:
        patches: (..., P).

    Returns:
        Mean (..., 1), and the root of the unbiased variance + `VARIANCE_EPS` (..., 1).
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True, unbiased=True)
    return mean, (variance + VARIANCE_EPS).sqrt()
