"""The paper's steps (arXiv 2111.06377) on tensors: no config and no trainer are needed.

Letters: N images, M visible sets an image, B = N * M, H x W pixels, p pixels a side of a patch,
P = p * p * 3, L patches on a grid of h x w, K of them visible, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from d2_multitask.modeling.mae.decoder import MAEDecoder
from d2_multitask.modeling.mae.encoder import MAEEncoder
from d2_multitask.modeling.mae.masking import (
    gather_patches,
    masking_from_noise,
    masking_from_visible,
    num_visible,
    visible_sets,
)
from d2_multitask.modeling.mae.patches import patch_grid, patch_statistics, patchify, unpatchify


class MAEOutput(NamedTuple):
    """What `MAENetwork.reconstruct` returns. ``...`` is N, or N, M for M sets an image.

    Attributes:
        loss: (), the mean error of the removed patches; 0 if none is removed.
        pred: (..., L, P), predicted patches: normalised images' pixels, or, with ``norm_pix_loss``,
            pixels normalised by each patch's own mean and deviation.
        mask: (..., L) float32, 0 = visible, 1 = removed.
        error: (..., L) float32, mean squared error of each patch, visible ones too.
    """

    loss: Tensor
    pred: Tensor
    mask: Tensor
    error: Tensor


class MAENetwork(nn.Module):
    """Encoder on visible patches, decoder to the pixels of all; see `reconstruct`."""

    def __init__(
        self,
        *,
        encoder: MAEEncoder,
        decoder: MAEDecoder,
        norm_pix_loss: bool = False,
        mask_ratio: float | Sequence[float] = 0.75,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ) -> None:
        """
        Args:
            encoder: sees the visible patches.
            decoder: predicts all; ``num_outputs`` is p * p * 3.
            norm_pix_loss: learn pixels normalised by each patch's mean and deviation.
            mask_ratio: share of removed patches in training; a pair = drawn uniformly between the
                two for each batch.
            pixel_mean: (3,), in the order of the images' channels, 0-255.
            pixel_std: (3,), likewise.

        Raises:
            ValueError: a ratio is out of range.
        """
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.norm_pix_loss = norm_pix_loss
        low, high = (mask_ratio,) * 2 if isinstance(mask_ratio, float | int) else mask_ratio
        for ratio in (low, high):
            num_visible(encoder.grid_hw[0] * encoder.grid_hw[1], ratio)
        if low > high:
            raise ValueError(f"MODEL.MAE.MASK_RATIO: found {mask_ratio}, expected (low, high)")
        self.mask_ratio = (float(low), float(high))
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.pixel_mean.device

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""
        return self.encoder.patch_size

    # The paper's steps

    def patchify(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, L, P); see `d2_multitask.modeling.mae.patches.patchify`."""
        return patchify(images, self.patch_size)

    def unpatchify(self, patches: Tensor, grid_hw: tuple[int, int] | None = None) -> Tensor:
        """(N, L, P) -> (N, 3, H, W); ``None`` is the grid of the stored position embedding."""
        return unpatchify(patches, self.patch_size, grid_hw or self.encoder.grid_hw)

    def random_masking(
        self, x: Tensor, mask_ratio: float, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Remove patches at random, a different choice for each image.

        Args:
            x: (N, L, D), embedded patches.
            mask_ratio: share to remove.
            noise: (N, L), the patches with the smallest stay; ``None`` = uniform random numbers.

        Returns:
            The visible patches (N, K, D), mask (N, L) with 1 = removed, and ids_restore (N, L).
        """
        if noise is None:
            noise = torch.rand(x.shape[:2], device=x.device)
        masking = masking_from_noise(noise, num_visible(noise.shape[1], mask_ratio))
        return gather_patches(x, masking.ids_keep), masking.mask, masking.ids_restore

    def forward_encoder(
        self,
        images: Tensor,
        mask_ratio: float = 0.75,
        visible: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the visible patches, drawn at random or given.

        Args:
            images: (N, 3, H, W), normalised.
            mask_ratio: share to remove, if no set is given.
            visible: (N, L) or (N, M, L) bool, True = visible, the same number in each set.
            noise: see `random_masking`.

        Returns:
            Latent (B, 1 + K, D), mask (B, L) with 1 = removed, and ids_restore (B, L).
        """
        if visible is None:
            h, w = patch_grid((images.shape[-2], images.shape[-1]), self.patch_size)
            if noise is None:
                noise = torch.rand(len(images), h * w, device=images.device)
            # As `random_masking`, but patches that are removed are not even embedded.
            masking = masking_from_noise(noise, num_visible(h * w, mask_ratio))
        else:
            masking = masking_from_visible(visible.flatten(0, -2))
        x = self.encoder.embed_visible(images, masking.ids_keep)
        return self.encoder.encode(x), masking.mask, masking.ids_restore

    def forward_decoder(
        self, latent: Tensor, ids_restore: Tensor, grid_hw: tuple[int, int] | None = None
    ) -> Tensor:
        """(B, 1 + K, D), (B, L) -> predicted patches (B, L, P); ``None``: the stored grid."""
        return self.decoder(latent, ids_restore, grid_hw or self.encoder.grid_hw)

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error, averaged over the removed patches; in float32.

        Args:
            images: (N, 3, H, W), normalised.
            pred: (B, L, P); the sets of one image follow one another.
            mask: (B, L), 1 = removed.

        Returns:
            The loss (), and the error of every patch (B, L).
        """
        target = self.patchify(images.float())
        if self.norm_pix_loss:
            mean, deviation = patch_statistics(target)
            target = (target - mean) / deviation
        pred = pred.float().unflatten(0, (len(target), -1))  # (N, M, L, P)
        error = (pred - target[:, None]).square().mean(-1).flatten(0, 1)
        return (error * mask).sum() / mask.sum().clamp(min=1), error

    # All steps

    def reconstruct(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        *,
        mask_ratio: float | None = None,
        noise: Tensor | None = None,
    ) -> MAEOutput:
        """All steps on tensors; gradients as usual.

        Args:
            images: (N, 3, H, W), normalised, of any size that the patch divides.
            visible: given visible sets: (L,), (N, L) or (N, M, L) bool, or indices (K,), (N, K) or
                (N, M, K). Patches are embedded once for all M sets of an image. Boolean sets may
                have different numbers of patches; each number is then a run of its own.
            mask_ratio: share to remove at random without given sets; ``None`` = as in training.
            noise: (N, L) that decides which, for masks that can be repeated.

        Returns:
            Loss, predictions, masks and errors.

        Raises:
            ValueError: the patch does not divide the images, or sets do not fit them.
        """
        grid_hw = patch_grid((images.shape[-2], images.shape[-1]), self.patch_size)
        if visible is None:
            ratio = self._draw_mask_ratio() if mask_ratio is None else mask_ratio
            latent, mask, ids_restore = self.forward_encoder(images, ratio, noise=noise)
            pred = self.forward_decoder(latent, ids_restore, grid_hw)
            leading: tuple[int, ...] = (len(images),)
        else:
            sets = visible_sets(visible.to(images.device), len(images), grid_hw[0] * grid_hw[1])
            pred, mask = self._reconstruct_sets(images, sets.flatten(0, -2), grid_hw)
            leading = tuple(sets.shape[:-1])
        loss, error = self.forward_loss(images, pred, mask)
        return MAEOutput(loss, *(value.unflatten(0, leading) for value in (pred, mask, error)))

    def _reconstruct_sets(
        self, images: Tensor, sets: Tensor, grid_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(B, L) bool -> predictions (B, L, P) and masks (B, L)."""
        tokens = self.encoder.embed(images)
        image_index = torch.arange(len(images), device=sets.device)
        image_index = image_index.repeat_interleave(len(sets) // len(images))
        counts = sets.sum(1)
        predictions, rows = [], []
        for count in counts.unique().tolist():
            row = (counts == count).nonzero()[:, 0]
            masking = masking_from_visible(sets[row])
            # (B', K, D): picked from all images' tokens, without copying those for each set
            x = tokens[image_index[row][:, None], masking.ids_keep]
            latent = self.encoder.encode(x)
            predictions.append(self.forward_decoder(latent, masking.ids_restore, grid_hw))
            rows.append(row)
        return torch.cat(predictions)[torch.cat(rows).argsort()], (~sets).float()

    def _draw_mask_ratio(self) -> float:
        low, high = self.mask_ratio
        return low if low == high else low + (high - low) * torch.rand(()).item()

    def to_pixels(self, images: Tensor, pred: Tensor) -> Tensor:
        """Predicted patches as images.

        A network with ``norm_pix_loss`` does not know a patch's mean and deviation; those of the
        original are taken, which only a picture may do.

        Args:
            images: (N, 3, H, W), the normalised originals.
            pred: (N, L, P).

        Returns:
            (N, 3, H, W) float32, 0-255, channels as in the images.
        """
        pred = pred.float()
        if self.norm_pix_loss:
            mean, deviation = patch_statistics(self.patchify(images.float()))
            pred = pred * deviation + mean
        grid_hw = patch_grid((images.shape[-2], images.shape[-1]), self.patch_size)
        pixels = self.unpatchify(pred, grid_hw) * self.pixel_std + self.pixel_mean
        return pixels.clamp(0, 255)
