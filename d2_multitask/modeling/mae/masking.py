"""Images as sequences of patches, and which of them the encoder gets (arXiv 2111.06377).

Letters: N images, C channels, H x W pixels, p pixels per side of a patch, h = H / p and w = W / p
patches, L = h * w; K visible patches, M visible sets per image, B = N * M sequences. A patch is a
vector of p * p * C numbers in the order row, column, channel; patches are in reading order. Masks
are 1 = removed, as in the paper's code; visible sets are True = visible.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Added to a patch's variance before the division; the authors' number.
VARIANCE_EPS = 1e-6


def patch_grid(image_hw: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """(H, W) in pixels -> (h, w), the patches along height and width.

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
    """(N, C, H, W) -> (N, L, p * p * C)."""
    num_images, channels, *image_hw = images.shape
    h, w = patch_grid((image_hw[0], image_hw[1]), patch_size)
    x = images.reshape(num_images, channels, h, patch_size, w, patch_size)
    x = x.permute(0, 2, 4, 3, 5, 1)  # (N, h, w, p, p, C)
    return x.reshape(num_images, h * w, patch_size**2 * channels)


def unpatchify(patches: Tensor, patch_size: int, grid_hw: tuple[int, int]) -> Tensor:
    """(N, L, p * p * C) -> (N, C, h * p, w * p), the inverse of `patchify`."""
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
    """(..., p * p * C) -> mean (..., 1) and standard deviation (..., 1) of each patch.

    The deviation is the root of the unbiased variance + `VARIANCE_EPS`.
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True, unbiased=True)
    return mean, (variance + VARIANCE_EPS).sqrt()


class Masking(NamedTuple):
    """A choice of visible patches for each sequence.

    Attributes:
        ids_keep: (B, K) int64, the visible patches.
        ids_restore: (B, L) int64: where each patch is in "visible patches, then removed ones".
        mask: (B, L) float32, 0 = visible, 1 = removed.
    """

    ids_keep: Tensor
    ids_restore: Tensor
    mask: Tensor


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """K for a ratio in [0, 1), rounded as in the authors' code; at least 1, else an error."""
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"Mask ratio: found {mask_ratio}, expected a number in [0, 1)")
    count = int(num_patches * (1 - mask_ratio))
    if count < 1:
        raise ValueError(
            f"Mask ratio: found {mask_ratio} for {num_patches} patches, which leaves none visible"
        )
    return count


def masking_from_noise(noise: Tensor, count: int) -> Masking:
    """Keep the ``count`` patches with the smallest noise (B, L)."""
    ids_shuffle = noise.argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    mask = (ids_restore >= count).float()
    return Masking(ids_shuffle[:, :count], ids_restore, mask)


def masking_from_visible(visible: Tensor) -> Masking:
    """The masking of sets (B, L) that all have the same size; ``ids_keep`` in reading order."""
    count = int(visible[0].sum())
    ids_shuffle = (~visible).to(torch.uint8).argsort(dim=1, stable=True)
    return Masking(ids_shuffle[:, :count], ids_shuffle.argsort(dim=1), (~visible).float())


def visible_sets(visible: Tensor, num_images: int, num_patches: int) -> Tensor:
    """Check given visible sets and convert them to booleans.

    Args:
        visible: boolean, True = visible: (L,) for all images, (N, L) one set per image, (N, M, L) M
            sets per image. Or integers, indices of the visible patches: (K,), (N, K), (N, M, K).
        num_images: N.
        num_patches: L.

    Returns:
        (N, L) or (N, M, L) bool.

    Raises:
        ValueError: another length or number of images, an empty set, or an index that is out of
            range or given twice.
    """
    if not 1 <= visible.dim() <= 3 or visible.is_floating_point():
        raise ValueError(
            f"Visible sets: found {tuple(visible.shape)} {visible.dtype}, expected booleans or "
            "indices, one set for all, (N, set), or (N, M, set)"
        )
    if visible.dim() == 1:
        visible = visible.expand(num_images, -1)
    if len(visible) != num_images:
        raise ValueError(
            f"Visible sets: found sets for {len(visible)} images, expected {num_images}; several "
            "sets per image are (N, M, set)"
        )
    if visible.dtype != torch.bool:
        indices = visible.long()
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < num_patches:
            raise ValueError(
                f"Visible sets: found indices {int(indices.min())}..{int(indices.max())}, expected "
                f"0..{num_patches - 1}"
            )
        visible = indices.new_zeros((*indices.shape[:-1], num_patches), dtype=torch.bool)
        visible.scatter_(-1, indices, True)
        if int(visible.sum()) != indices.numel():
            raise ValueError("Visible sets: found an index twice in a set, expected each once")
    if visible.shape[-1] != num_patches:
        raise ValueError(
            f"Visible sets: found {visible.shape[-1]} entries per set, expected {num_patches}, one "
            "per patch of the image"
        )
    if visible.numel() == 0 or not bool(visible.any(-1).all()):
        raise ValueError("Visible sets: found an empty set, expected at least one visible patch")
    return visible
