"""Which patches the encoder sees: drawn at random, or given.

Letters: N images, M visible sets an image, B = N * M sequences, L patches, K of them visible. Masks
say 1 = removed, as in the paper's code; visible sets say True = visible.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    """K for a ratio, rounded as the authors' code does.

    Raises:
        ValueError: no patch would be visible, or the ratio is not in [0, 1).
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"Mask ratio: found {mask_ratio}, expected a number in [0, 1)")
    count = int(num_patches * (1 - mask_ratio))
    if count < 1:
        raise ValueError(
            f"Mask ratio: found {mask_ratio} for {num_patches} patches, which leaves none visible"
        )
    return count


def masking_from_noise(noise: Tensor, count: int) -> Masking:
    """Keep the ``count`` patches with the smallest noise.

    Args:
        noise: (B, L).
        count: K.
    """
    ids_shuffle = noise.argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    mask = (ids_restore >= count).float()
    return Masking(ids_shuffle[:, :count], ids_restore, mask)


def masking_from_visible(visible: Tensor) -> Masking:
    """The masking of sets that all have the same number of patches.

    Args:
        visible: (B, L) bool, True = visible.

    Returns:
        The masking; ``ids_keep`` is in reading order.
    """
    count = int(visible[0].sum())
    ids_shuffle = (~visible).to(torch.uint8).argsort(dim=1, stable=True)
    return Masking(ids_shuffle[:, :count], ids_shuffle.argsort(dim=1), (~visible).float())


def visible_sets(visible: Tensor, num_images: int, num_patches: int) -> Tensor:
    """Check given visible sets and write them as booleans.

    Args:
        visible: boolean, True = visible: (L,) for all images, (N, L) one set an image, (N, M, L) M
            sets an image. Or integers, indices of the visible patches: (K,), (N, K), (N, M, K).
        num_images: N.
        num_patches: L.

    Returns:
        (N, L) or (N, M, L) bool.

    Raises:
        ValueError: another length or number of images, an empty set, an index that is not a patch,
            or that is named twice.
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
            "sets an image are (N, M, set)"
        )
    if visible.dtype != torch.bool:
        visible = _from_indices(visible, num_patches)
    if visible.shape[-1] != num_patches:
        raise ValueError(
            f"Visible sets: found {visible.shape[-1]} entries a set, expected {num_patches}, one "
            "a patch of the image"
        )
    if visible.numel() == 0 or not bool(visible.any(-1).all()):
        raise ValueError("Visible sets: found an empty set, expected at least one visible patch")
    return visible


def _from_indices(indices: Tensor, num_patches: int) -> Tensor:
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < num_patches:
        raise ValueError(
            f"Visible sets: found indices {int(indices.min())}..{int(indices.max())}, expected "
            f"0..{num_patches - 1}"
        )
    shape = (*indices.shape[:-1], num_patches)
    visible = torch.zeros(shape, dtype=torch.bool, device=indices.device)
    visible.scatter_(-1, indices.long(), True)
    if int(visible.sum()) != indices.numel():
        raise ValueError("Visible sets: found an index twice in a set, expected each once")
    return visible


def gather_patches(tokens: Tensor, ids_keep: Tensor) -> Tensor:
    """Pick patches; with several sets an image, the image's tokens are not copied for each.

    Args:
        tokens: (N, L, D).
        ids_keep: (B, K), B = N * M; sets of one image follow one another.

    Returns:
        (B, K, D).
    """
    num_images, length, channels = tokens.shape
    if len(ids_keep) == num_images:
        return tokens.gather(1, ids_keep[..., None].expand(-1, -1, channels))
    first = torch.arange(num_images, device=tokens.device) * length
    first = first.repeat_interleave(len(ids_keep) // num_images)[:, None]
    return tokens.reshape(-1, channels)[first + ids_keep]
