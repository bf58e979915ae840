"""MAE's decoder: from the visible patches' tokens to pixels of all patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d2_multitask.modeling.mae.blocks import build_blocks, init_linear_layers, layer_norm
from d2_multitask.modeling.mae.encoder import fixed_position_embedding
from d2_multitask.modeling.mae.position_embedding import PositionTable


class MAEDecoder(nn.Module):
    """Letters as in the encoder; E channels. The parameters have the authors' names."""

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
        """
        Args:
            encoder_dim: D, channels of the encoder's tokens.
            grid_hw: (h, w) that the stored position embedding is for.
            num_outputs: numbers to predict for each patch: p * p * 3 for its pixels; 0 = nothing,
                the decoder is there for `decode`.
            embed_dim: E.
            depth: number of blocks.
            num_heads: attention heads.
            mlp_ratio: hidden channels of a block's MLP as a multiple of E.
            position_resize: as for the encoder.

        Raises:
            ValueError: numbers that do not fit each other.
        """
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

    def forward(self, latent: Tensor, ids_restore: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Predict every patch.

        Args:
            latent: (B, 1 + K, D) from the encoder.
            ids_restore: (B, L), see `d2_multitask.modeling.mae.masking.Masking`.
            grid_hw: (h, w) with h * w = L.

        Returns:
            (B, L, num_outputs); (B, L, E) if that is 0.
        """
        x = self.decode(latent, ids_restore, grid_hw)
        return self.decoder_pred(x)

    def decode(self, latent: Tensor, ids_restore: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """What `decoder_pred` reads, (B, L, E), no class token; arguments as `forward`."""
        x = self.decoder_embed(latent)  # (B, 1 + K, E)
        num_removed = ids_restore.shape[1] + 1 - x.shape[1]
        mask_tokens = self.mask_token.to(x.dtype).expand(len(x), num_removed, -1)
        patches = torch.cat([x[:, 1:], mask_tokens], dim=1)  # (B, L, E), visible first
        patches = patches.gather(1, ids_restore[..., None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], patches], dim=1)
        x = x + self.positions(self.decoder_pos_embed, grid_hw)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_norm(x)[:, 1:]
