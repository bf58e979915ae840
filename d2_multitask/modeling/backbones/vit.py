"""A masked autoencoder's encoder as a backbone: one feature map of the patch's stride.

Letters: N images, H x W pixels, h x w patches, D channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.vit import ViT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2_multitask.checkpoint.adapting import AdaptedWeights
from d2_multitask.modeling.backbones.vit_attention import ScaledDotProductAttention
from d2_multitask.modeling.mae.blocks import init_linear_layers, layer_norm
from d2_multitask.modeling.mae.config import encoder_arguments
from d2_multitask.modeling.mae.encoder import fixed_position_embedding
from d2_multitask.modeling.mae.patches import patch_grid
from d2_multitask.modeling.mae.position_embedding import PositionTable
from d2_multitask.modeling.mae.weights import adapt_mae_weights

OUT_FEATURE = "last_feat"
"""Detectron2's name of the output."""


class MAEViT(ViT):
    """Detectron2's `ViT` (ViTDet, arXiv 2203.16527) that takes images and MAE weights of any grid.

    Parameters have the names of Detectron2's and of the authors' files. As in ViTDet there is no
    class token: windows have no place for it. So the answers are those of MAE's blocks run on the
    patches alone, which fine-tuning soon makes up for.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        in_channels: int = 3,
        position_resize: str = "bicubic",
        window_size: int = 0,
        global_blocks: Sequence[int] = (),
        use_rel_pos: bool = False,
        rel_pos_image_size: tuple[int, int] = (1024, 1024),
        drop_path: float = 0.0,
        final_norm: bool = True,
        activation_checkpointing: bool = False,
        freeze_blocks: int = 0,
    ) -> None:
        """
        Args:
            image_size: (H, W) that the stored position embedding is for.
            patch_size: side of a patch, pixels.
            embed_dim: D.
            depth: number of blocks.
            num_heads: attention heads.
            in_channels: channels of the images.
            position_resize: positions of other image sizes: "bicubic", the positions are learnt
                on; or "sincos", exact, they stay as they are.
            window_size: side of the windows that attention is limited to, in patches; 0 = none.
            global_blocks: blocks (from 0) that attend to the whole image all the same; empty = the
                last of each quarter.
            use_rel_pos: learn decomposed relative positions; they start at zero.
            rel_pos_image_size: (H, W) that the relative positions of the global blocks are stored
                for; they are interpolated for others.
            drop_path: stochastic depth of the last block, growing linearly from 0.
            final_norm: MAE's norm after the last block; ViTDet has none.
            activation_checkpointing: compute blocks again in the backward pass.
            freeze_blocks: 0 = none; k = patches, positions and the first k blocks are not learnt.

        Raises:
            ValueError: numbers that do not fit each other.
        """
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        global_blocks = _checked_blocks(depth, embed_dim, num_heads, window_size, global_blocks)
        with warnings.catch_warnings():
            # Detectron2 imports timm's layers from where they were before timm 1.0.
            warnings.filterwarnings("ignore", "Importing from timm.models.layers", FutureWarning)
            super().__init__(
                patch_size=patch_size,
                in_chans=in_channels,
                embed_dim=embed_dim,
                depth=depth,
                num_heads=num_heads,
                drop_path_rate=drop_path,
                norm_layer=layer_norm,
                use_abs_pos=False,  # square ones only; ours below
                window_size=window_size,
                window_block_indexes=[i for i in range(depth) if i not in global_blocks],
                out_feature=OUT_FEATURE,
            )
        self.patch_size = patch_size
        self.grid_hw = patch_grid((height, width), patch_size)
        self.positions = PositionTable(self.grid_hw, position_resize)
        self.pos_embed = fixed_position_embedding(embed_dim, self.grid_hw)
        self.pos_embed.requires_grad_(position_resize == "bicubic")
        for block in self.blocks:
            grid_hw = patch_grid(rel_pos_image_size, patch_size) if use_rel_pos else None
            if block.window_size:
                grid_hw = (window_size, window_size)
            block.attn = ScaledDotProductAttention(
                embed_dim, num_heads, use_rel_pos=use_rel_pos, input_size=grid_hw
            )
        self.norm = layer_norm(embed_dim) if final_norm else None
        self.activation_checkpointing = activation_checkpointing
        self._init_as_mae()
        self._freeze(freeze_blocks)

    def _init_as_mae(self) -> None:
        init_linear_layers(self)
        weight = self.patch_embed.proj.weight
        nn.init.xavier_uniform_(weight.view(len(weight), -1))
        nn.init.zeros_(self.patch_embed.proj.bias)

    def _freeze(self, num_blocks: int) -> None:
        depth = len(self.blocks)
        if not 0 <= num_blocks <= depth:
            raise ValueError(
                f"MODEL.VIT.FREEZE_BLOCKS: found {num_blocks}, expected a number from 0 to {depth}"
            )
        self.freeze_blocks = num_blocks
        if num_blocks:
            self.pos_embed.requires_grad_(False)
            self.patch_embed.requires_grad_(False)
            self.blocks[:num_blocks].requires_grad_(False)
        if num_blocks == depth and self.norm is not None:
            self.norm.requires_grad_(False)

    def train(self, mode: bool = True) -> MAEViT:
        """As of every module; frozen blocks are never dropped (stochastic depth)."""
        super().train(mode)
        for block in self.blocks[: self.freeze_blocks]:
            block.eval()
        return self

    @property
    def size_divisibility(self) -> int:
        """Height and width of the images must be multiples of the patch."""
        return self.patch_size

    @property
    def padding_constraints(self) -> dict[str, int]:
        """How Detectron2's `ImageList` has to pad a batch."""
        return {"size_divisibility": self.size_divisibility}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the features.

        Args:
            x: normalised images, (N, C, H, W); H and W are multiples of `size_divisibility`.

        Returns:
            ``{"last_feat": (N, D, h, w)}``.

        Raises:
            ValueError: the patch does not divide H and W.
        """
        grid_hw = patch_grid((x.shape[-2], x.shape[-1]), self.patch_size)
        x = self.patch_embed(x)  # (N, h, w, D)
        x = x + self.positions(self.pos_embed, grid_hw)[:, 1:].unflatten(1, grid_hw)
        for block in self.blocks:
            if self.activation_checkpointing and x.requires_grad:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        if self.norm is not None:
            x = self.norm(x)
        return {OUT_FEATURE: x.permute(0, 3, 1, 2)}

    def adapt_weights(self, weights: dict[str, Tensor], file: str) -> AdaptedWeights | None:
        """Called when weights are loaded; see `d2_multitask.modeling.mae.weights`."""
        return adapt_mae_weights(self, weights, file, encoder_prefix="", decoder_prefix=None)


@BACKBONE_REGISTRY.register()
def build_mae_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MAEViT:
    """MAE's encoder, one feature map ``last_feat`` of the patch's stride.

    Args:
        cfg: Read: ``MODEL.MAE`` (size, patch, positions: the keys of pre-training) and
            ``MODEL.VIT`` (see `add_backbone_config`).
        input_shape: Its `channels` are the channels of the images.

    Returns:
        The backbone.

    Raises:
        ValueError: Numbers that do not fit each other.
    """
    return MAEViT(**vit_arguments(cfg), in_channels=input_shape.channels)


def vit_arguments(cfg: CfgNode) -> dict[str, Any]:
    """``MODEL.MAE`` and ``MODEL.VIT`` -> arguments of `MAEViT`."""
    node = cfg.MODEL.VIT
    return {
        **encoder_arguments(cfg.MODEL.MAE),
        "window_size": node.WINDOW_SIZE,
        "global_blocks": tuple(node.GLOBAL_BLOCKS),
        "use_rel_pos": node.USE_REL_POS,
        "rel_pos_image_size": tuple(node.REL_POS_IMAGE_SIZE),
        "drop_path": node.DROP_PATH,
        "final_norm": node.FINAL_NORM,
        "activation_checkpointing": node.ACTIVATION_CHECKPOINTING,
        "freeze_blocks": node.FREEZE_BLOCKS,
    }


def _checked_blocks(
    depth: int, embed_dim: int, num_heads: int, window_size: int, global_blocks: Sequence[int]
) -> list[int]:
    """The blocks that attend to the whole image."""
    if embed_dim % num_heads:
        raise ValueError(f"MAE: {num_heads} heads do not divide the {embed_dim} channels")
    if window_size < 0:
        raise ValueError(
            f"MODEL.VIT.WINDOW_SIZE: found {window_size}, expected a number of patches, or 0"
        )
    wrong = [index for index in global_blocks if not 0 <= index < depth]
    if wrong:
        raise ValueError(
            f"MODEL.VIT.GLOBAL_BLOCKS: found {wrong}, expected numbers from 0 to {depth - 1}"
        )
    return list(global_blocks) or [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
