"""The masked autoencoder (arXiv 2111.06377) on tensors: no config and no trainer are needed.

From top to bottom: the encoder of the visible patches, the decoder to the pixels of all patches,
and the network with the paper's steps: patchify, mask, encode, decode, loss.

Letters: N images, M visible sets per image, B = N * M, H x W pixels, p pixels per side of a patch,
P = p * p * 3, L patches on a grid of h x w, K of them visible, D and E channels of the encoder and
the decoder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import to_2tuple
from torch import Tensor, nn

from d2_multitask.modeling.mae.blocks import (
    build_blocks,
    init_linear_layers,
    init_patch_projection,
    layer_norm,
)
from d2_multitask.modeling.mae.masking import (
    Masking,
    masking_from_noise,
    masking_from_visible,
    num_visible,
    patch_grid,
    patch_statistics,
    patchify,
    unpatchify,
    visible_sets,
)
from d2_multitask.modeling.mae.position_embedding import PositionTable, fixed_position_embedding
from d2_multitask.modeling.mae.weights import AdaptedWeights, adapt_mae_weights


class MAEEncoder(nn.Module):
    """Patches -> tokens; the parameters have the authors' names (which are timm's).

    Args:
        image_size: (H, W), or one number for both, that the stored position embedding is for; any
            other size that is a multiple of the patch can be used as well.
        patch_size: p.
        embed_dim: D; see `build_blocks` for depth, num_heads, mlp_ratio and drop_path.
        position_resize: positions of other image sizes: "bicubic" or "sincos", see
            `d2_multitask.modeling.mae.position_embedding.resize_position_embedding`.
        in_channels: channels C of the images.

    Raises:
        ValueError: numbers that do not fit each other.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        position_resize: str = "bicubic",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        height, width = to_2tuple(image_size)
        self.patch_size = patch_size
        self.embed_dim = embed_dim
        self.grid_hw = patch_grid((height, width), patch_size)
        self.positions = PositionTable(self.grid_hw, position_resize)
        # Named as in the public checkpoints: patch_embed.proj.
        projection = nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)
        self.patch_embed = nn.Sequential(OrderedDict(proj=projection))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = fixed_position_embedding(embed_dim, self.grid_hw)
        self.blocks = build_blocks(embed_dim, depth, num_heads, mlp_ratio, drop_path)
        self.norm = layer_norm(embed_dim)
        init_linear_layers(self)
        nn.init.normal_(self.cls_token, std=0.02)
        init_patch_projection(projection)

    def embed(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Normalised images (N, C, H, W) -> tokens (N, L, D) with positions, for `encode`.

        With ``ids_keep`` (N, K), only of these patches: (N, K, D). H and W are multiples of p.
        """
        grid_hw = patch_grid((images.shape[-2], images.shape[-1]), self.patch_size)
        positions = self.positions(self.pos_embed, grid_hw)[:, 1:]
        if ids_keep is None:
            return self.patch_embed(images).flatten(2).transpose(1, 2) + positions
        # The same convolution as a linear layer on the visible patches; the others are not copied.
        (h, w), p = grid_hw, self.patch_size
        grid = images.unflatten(3, (w, p)).unflatten(2, (h, p)).permute(0, 2, 4, 1, 3, 5)
        image_index = torch.arange(images.shape[0], device=images.device)[:, None]
        patches = grid[image_index, ids_keep // w, ids_keep % w]  # (N, K, C, p, p)
        projection = self.patch_embed.proj
        tokens = F.linear(patches.flatten(2), projection.weight.flatten(1), projection.bias)
        return tokens + positions[0, ids_keep]

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, K, D) from `embed` -> (B, 1 + K, D), the class token first."""
        cls_token = self.cls_token + self.pos_embed[:, :1]
        x = torch.cat([cls_token.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, C, H, W) -> (N, 1 + L, D): the class token, then all patches."""
        return self.encode(self.embed(images))

    def adapt_weights(self, weights: dict[str, Tensor], file: str) -> AdaptedWeights | None:
        """Called when weights are loaded; see `d2_multitask.modeling.mae.weights`."""
        return adapt_mae_weights(self, weights, file, encoder_prefix="", decoder_prefix=None)


class MAEDecoder(nn.Module):
    """The visible patches' tokens -> pixels of all patches, under the authors' parameter names.

    Args:
        encoder_dim: D, channels of the encoder's tokens.
        grid_hw: (h, w) that the stored position embedding is for.
        num_outputs: numbers to predict for each patch: P for its pixels; 0 = none, the decoder is
            only for `decode`.
        embed_dim: E; this and the rest as for the encoder.

    Raises:
        ValueError: numbers that do not fit each other.
    """

    def __init__(
        self,
        *,
        encoder_dim: int,
        grid_hw: tuple[int, int],
        num_outputs: int,
        embed_dim: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        position_resize: str = "bicubic",
    ) -> None:
        super().__init__()
        self.positions = PositionTable(grid_hw, position_resize)
        self.decoder_embed = nn.Linear(encoder_dim, embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.decoder_pos_embed = fixed_position_embedding(embed_dim, grid_hw)
        self.decoder_blocks = build_blocks(embed_dim, depth, num_heads, mlp_ratio)
        self.decoder_norm = layer_norm(embed_dim)
        self.decoder_pred = nn.Linear(embed_dim, num_outputs) if num_outputs else nn.Identity()
        init_linear_layers(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def decode(self, latent: Tensor, ids_restore: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Latent (B, 1 + K, D) -> the tokens of all patches (B, L, E), without the class token.

        For ``ids_restore`` (B, L) see `d2_multitask.modeling.mae.masking.Masking`; h * w = L.
        """
        x = self.decoder_embed(latent)  # (B, 1 + K, E)
        num_removed = ids_restore.shape[1] + 1 - x.shape[1]
        mask_tokens = self.mask_token.to(x.dtype).expand(x.shape[0], num_removed, -1)
        patches = torch.cat([x[:, 1:], mask_tokens], dim=1)  # (B, L, E), visible first
        patches = patches.gather(1, ids_restore[..., None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], patches], dim=1)
        x = x + self.positions(self.decoder_pos_embed, grid_hw)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_norm(x)[:, 1:]

    def forward(self, latent: Tensor, ids_restore: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Arguments as `decode` -> predictions (B, L, num_outputs); (B, L, E) if that is 0."""
        return self.decoder_pred(self.decode(latent, ids_restore, grid_hw))


class MAEOutput(NamedTuple):
    """Result of `MAENetwork.reconstruct`. ``...`` is N, or N, M for M sets per image.

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
    """Encoder of visible patches, decoder to the pixels of all; see `reconstruct`.

    Args:
        encoder: of the visible patches.
        decoder: its ``num_outputs`` is P.
        norm_pix_loss: predict pixels normalised by each patch's mean and deviation.
        mask_ratio: share of removed patches in training; a pair = drawn uniformly between the two
            for each batch.
        pixel_mean: (3,), in the order of the images' channels, 0-255; also pixel_std.
    """

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
        """The network's device."""
        return self.pixel_mean.device

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""
        return self.encoder.patch_size

    def patchify(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, L, P)."""
        return patchify(images, self.patch_size)

    def unpatchify(self, patches: Tensor, grid_hw: tuple[int, int] | None = None) -> Tensor:
        """(N, L, P) -> (N, 3, H, W); ``None`` is the grid of the stored position embedding."""
        return unpatchify(patches, self.patch_size, grid_hw or self.encoder.grid_hw)

    def random_masking(
        self, x: Tensor, mask_ratio: float, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Remove a share of the embedded patches (N, L, D) at random, other ones in each image.

        Those with the smallest ``noise`` (N, L) are kept; ``None`` = uniform random numbers.

        Returns:
            The visible patches (N, K, D), mask (N, L) with 1 = removed, and ids_restore (N, L).
        """
        masking = _random_masking(x, x.shape[1], mask_ratio, noise)
        visible = x.gather(1, masking.ids_keep[..., None].expand(-1, -1, x.shape[2]))
        return visible, masking.mask, masking.ids_restore

    def forward_encoder(
        self, images: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the visible patches of normalised images (N, 3, H, W).

        They are those of `random_masking`, but removed patches are not even embedded.

        Returns:
            Latent (N, 1 + K, D), mask (N, L) with 1 = removed, and ids_restore (N, L).
        """
        h, w = patch_grid((images.shape[-2], images.shape[-1]), self.patch_size)
        masking = _random_masking(images, h * w, mask_ratio, noise)
        latent = self.encoder.encode(self.encoder.embed(images, masking.ids_keep))
        return latent, masking.mask, masking.ids_restore

    def forward_decoder(
        self, latent: Tensor, ids_restore: Tensor, grid_hw: tuple[int, int] | None = None
    ) -> Tensor:
        """(B, 1 + K, D), (B, L) -> predicted patches (B, L, P); ``None``: the stored grid."""
        return self.decoder(latent, ids_restore, grid_hw or self.encoder.grid_hw)

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The loss (), and the mean squared error of every patch (B, L), in float32.

        The loss is the mean error of the removed patches: those with ``mask`` (B, L) = 1. Of
        ``pred`` (B, L, P), the sets of one image (N, 3, H, W) follow one another.
        """
        target = self.patchify(images.float())
        if self.norm_pix_loss:
            mean, deviation = patch_statistics(target)
            target = (target - mean) / deviation
        pred = pred.float().unflatten(0, (len(target), -1))  # (N, M, L, P)
        error = (pred - target[:, None]).square().mean(-1).flatten(0, 1)
        return (error * mask).sum() / mask.sum().clamp(min=1), error

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
            images: (N, 3, H, W), normalised; H and W are multiples of p.
            visible: given visible sets: (L,), (N, L) or (N, M, L) bool, or indices (K,), (N, K) or
                (N, M, K). Patches are embedded once for all M sets of an image. Boolean sets may
                have different sizes; the network runs once for each size.
            mask_ratio: share to remove at random without given sets; ``None`` = as in training.
            noise: (N, L), see `random_masking`, for reproducible masks.

        Returns:
            Loss, predictions, masks and errors.

        Raises:
            ValueError: p does not divide H and W, or sets do not fit the images.
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

    def _draw_mask_ratio(self) -> float:
        low, high = self.mask_ratio
        return low if low == high else low + (high - low) * torch.rand(()).item()

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
            # (B', K, D): from all images' tokens, without copying those for each set
            x = tokens[image_index[row][:, None], masking.ids_keep]
            latent = self.encoder.encode(x)
            predictions.append(self.forward_decoder(latent, masking.ids_restore, grid_hw))
            rows.append(row)
        return torch.cat(predictions)[torch.cat(rows).argsort()], (~sets).float()

    def to_pixels(self, images: Tensor, pred: Tensor) -> Tensor:
        """Predicted patches (N, L, P) as images (N, 3, H, W) float32, 0-255, for display.

        A network with ``norm_pix_loss`` does not predict a patch's mean and deviation; those of
        the normalised originals ``images`` (N, 3, H, W) are used.
        """
        pred = pred.float()
        if self.norm_pix_loss:
            mean, deviation = patch_statistics(self.patchify(images.float()))
            pred = pred * deviation + mean
        grid_hw = patch_grid((images.shape[-2], images.shape[-1]), self.patch_size)
        pixels = self.unpatchify(pred, grid_hw) * self.pixel_std + self.pixel_mean
        return pixels.clamp(0, 255)


def _random_masking(
    images: Tensor, num_patches: int, mask_ratio: float, noise: Tensor | None
) -> Masking:
    """The masking of as many images as ``images`` has rows."""
    if noise is None:
        noise = torch.rand(len(images), num_patches, device=images.device)
    return masking_from_noise(noise, num_visible(num_patches, mask_ratio))
