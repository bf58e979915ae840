"""MAE's encoder: a vision transformer that sees the visible patches only.

Letters: N images, M visible sets an image, B = N * M, H x W pixels, L patches, K of them visible,
D channels. Tensors and keyword arguments only: no config and no trainer are needed to use it.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_multitask.modeling.mae.blocks import (
    build_blocks,
    init_linear_layers,
    init_patch_projection,
    layer_norm,
)
from d2_multitask.modeling.mae.masking import gather_patches, masking_from_visible, visible_sets
from d2_multitask.modeling.mae.patches import patch_grid
from d2_multitask.modeling.mae.position_embedding import PositionTable, sincos_position_embedding
from d2_multitask.modeling.mae.weights import AdaptedWeights, adapt_mae_weights


class MAEEncoder(nn.Module):
    """Patches -> tokens; the parameters have the authors' names (which are timm's)."""

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
        """
        Args:
            image_size: (H, W), or one number for both, that the stored position embedding is for;
                any other size that the patch divides can be used as well.
            patch_size: side of a patch, pixels.
            embed_dim: D.
            depth: number of blocks.
            num_heads: attention heads.
            mlp_ratio: hidden channels of a block's MLP as a multiple of D.
            drop_path: stochastic depth of the last block, for fine-tuning.
            position_resize: positions of other image sizes: "bicubic" or "sincos", see
                `d2_multitask.modeling.mae.position_embedding.resize_position_embedding`.
            in_channels: channels of the images.

        Raises:
            ValueError: numbers that do not fit each other.
        """
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
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
        """Embed patches and add their positions.

        Args:
            images: (N, C, H, W), normalised.
            ids_keep: (N, K), only these patches; ``None`` = all.

        Returns:
            (N, K, D); or (N, L, D), to be given to `encode` whole or in part, any number of times.

        Raises:
            ValueError: the patch does not divide H and W.
        """
        grid_hw = patch_grid((images.shape[-2], images.shape[-1]), self.patch_size)
        positions = self.positions(self.pos_embed, grid_hw)[:, 1:]
        if ids_keep is None:
            return self.patch_embed(images).flatten(2).transpose(1, 2) + positions
        # The same convolution as a linear layer, on the visible patches only; no other is copied.
        (h, w), p = grid_hw, self.patch_size
        grid = images.unflatten(3, (w, p)).unflatten(2, (h, p)).permute(0, 2, 4, 1, 3, 5)
        image_index = torch.arange(len(images), device=images.device)[:, None]
        patches = grid[image_index, ids_keep // w, ids_keep % w]  # (N, K, C, p, p)
        projection = self.patch_embed.proj
        tokens = F.linear(patches.flatten(2), projection.weight.flatten(1), projection.bias)
        return tokens + positions[0, ids_keep]

    def encode(self, tokens: Tensor) -> Tensor:
        """Run the blocks on a choice of patches.

        Args:
            tokens: (B, K, D) from `embed`.

        Returns:
            (B, 1 + K, D), the class token first.
        """
        cls_token = self.cls_token + self.pos_embed[:, :1]
        x = torch.cat([cls_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encode images, or the visible patches of them.

        Args:
            images: (N, C, H, W), normalised.
            visible: which patches, see `d2_multitask.modeling.mae.masking.visible_sets`, every set
                of the same number; ``None`` = all.

        Returns:
            (N, 1 + K, D), or (N, M, 1 + K, D) for M sets an image: the class token, then the
            visible patches in reading order.

        Raises:
            ValueError: sizes or sets do not fit, or sets of several sizes.
        """
        if visible is None:
            return self.encode(self.embed(images))
        h, w = patch_grid((images.shape[-2], images.shape[-1]), self.patch_size)
        sets = visible_sets(visible.to(images.device), len(images), h * w)
        counts = sets.sum(-1)
        if int(counts.min()) != int(counts.max()):
            raise ValueError(
                f"Visible sets: found between {int(counts.min())} and {int(counts.max())} patches, "
                "expected the same number in each set of a batch"
            )
        ids_keep = masking_from_visible(sets.flatten(0, -2)).ids_keep
        return self.encode(self.embed_visible(images, ids_keep)).unflatten(0, sets.shape[:-1])

    def embed_visible(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """The tokens of visible patches, each patch embedded at most once.

        Args:
            images: (N, C, H, W), normalised.
            ids_keep: (B, K); the sets of one image follow one another.

        Returns:
            (B, K, D).
        """
        if len(ids_keep) == len(images):
            return self.embed(images, ids_keep)
        return gather_patches(self.embed(images), ids_keep)

    def adapt_weights(self, weights: dict[str, Tensor], file: str) -> AdaptedWeights | None:
        """Called when weights are loaded; see `d2_multitask.modeling.mae.weights`."""
        return adapt_mae_weights(self, weights, file, encoder_prefix="", decoder_prefix=None)


def fixed_position_embedding(embed_dim: int, grid_hw: tuple[int, int]) -> nn.Parameter:
    """(1, 1 + L, D): zeros for the class token, then the table; a parameter that is not learnt.

    A parameter and not a buffer, as in the authors' code; so it is in every checkpoint.
    """
    places = sincos_position_embedding(embed_dim, grid_hw)
    table = torch.cat([torch.zeros(1, embed_dim), places])[None]
    return nn.Parameter(table, requires_grad=False)
