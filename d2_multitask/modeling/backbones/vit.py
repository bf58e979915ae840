"""A masked autoencoder's encoder as a backbone, alone or with ViTDet's simple feature pyramid.

Letters: N images, H x W pixels, h x w patches, D channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.utils import get_rel_pos
from detectron2.modeling.backbone.vit import Attention, SimpleFeaturePyramid, ViT
from timm.layers import to_2tuple
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2_multitask.checkpoint.report import AdaptedWeights
from d2_multitask.modeling.mae.blocks import (
    init_linear_layers,
    init_patch_projection,
    layer_norm,
    matrix_is_faster,
)
from d2_multitask.modeling.mae.config import encoder_arguments
from d2_multitask.modeling.mae.masking import patch_grid
from d2_multitask.modeling.mae.position_embedding import PositionTable, fixed_position_embedding
from d2_multitask.modeling.mae.weights import adapt_mae_weights

OUT_FEATURE = "last_feat"
"""Detectron2's name of the output."""
LEVELS = ("p2", "p3", "p4", "p5", "p6")


class ScaledDotProductAttention(Attention):
    """Detectron2's `Attention` in less memory, by PyTorch's `scaled_dot_product_attention`.

    The matrix of attention weights, (N, heads, h * w, h * w), is not stored. With relative
    positions (MViTv2, arXiv 2112.01526, section 4.1) neither, except for small windows: what they
    add to a logit is a function of the query and the key's row, plus one of the query and the key's
    column. So it is a product of h + w more channels: the query's hold what is added for each row
    and column, the key's are 1 at its own row and column, else 0. (Given as `attn_mask`, whose
    gradient is needed, PyTorch would store the matrix several times.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, D) -> the same; N images or windows."""
        n, h, w, _ = x.shape
        qkv = self.qkv(x).reshape(n, h * w, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, h * w, D / heads) each
        if self.use_rel_pos:
            x = self._attend_with_positions(q, k, v, (h, w))
        elif matrix_is_faster(q):
            x = _written_out(q * self.scale, k, v)
        else:
            x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(x.transpose(1, 2).reshape(n, h, w, -1))

    def _attend_with_positions(
        self, q: Tensor, k: Tensor, v: Tensor, grid_hw: tuple[int, int]
    ) -> Tensor:
        """(N, heads, h * w, D / heads) each -> the same."""
        cells = _one_hot_cells(grid_hw).to(k).expand(*k.shape[:2], -1, -1)
        q = torch.cat([q * self.scale, self._relative_positions(q, grid_hw)], dim=-1)
        k = torch.cat([k, cells], dim=-1)
        # The matrix is smaller than what the kernel would store, or it is faster.
        if q.shape[2] <= 3 * q.shape[3] or matrix_is_faster(q):
            return _written_out(q, k, v)
        # PyTorch's fast kernels need as many channels as q and k have.
        padded = F.pad(v, (0, sum(grid_hw)))
        return F.scaled_dot_product_attention(q, k, padded, scale=1.0)[..., : v.shape[-1]]

    def _relative_positions(self, q: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """What is added to each query's logits for the keys of each row, then of each column.

        (N, heads, h * w, D / heads) -> (N, heads, h * w, h + w).
        """
        h, w = grid_hw
        rows = get_rel_pos(h, h, self.rel_pos_h)  # (h, h, D / heads): from a row to a row
        columns = get_rel_pos(w, w, self.rel_pos_w)
        q = q.unflatten(2, (h, w))
        vertical = torch.einsum("nahwc,hkc->nahwk", q, rows)
        horizontal = torch.einsum("nahwc,wkc->nahwk", q, columns)
        return torch.cat([vertical, horizontal], dim=-1).flatten(2, 3).to(q.dtype)


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def _one_hot_cells(grid_hw: tuple[int, int]) -> Tensor:
    """(h * w, h + w): for each cell, 1 at its row and, after the rows, at its column."""
    h, w = grid_hw
    rows = torch.eye(h).repeat_interleave(w, dim=0)
    return torch.cat([rows, torch.eye(w).repeat(h, 1)], dim=1)


class MAEViT(ViT):
    """Detectron2's `ViT` (ViTDet, arXiv 2203.16527) that takes images and MAE weights of any grid.

    The parameters have the names of Detectron2's and of the authors' files. As in ViTDet there is
    no class token, because windows cannot contain it. So the outputs are those of MAE's blocks run
    on the patches alone, which fine-tuning soon compensates for.

    The arguments are the keys of ``MODEL.MAE`` and ``MODEL.VIT``, explained there
    (`add_mae_config`, `add_backbone_config`): ``patch_size`` in pixels, ``embed_dim`` D, image
    sizes (H, W), ``window_size`` in patches, 0 = none.

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
        height, width = to_2tuple(image_size)
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
        init_linear_layers(self)
        init_patch_projection(self.patch_embed.proj)
        self._freeze(freeze_blocks)

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
        """See `nn.Module.train`; frozen blocks have no stochastic depth."""
        super().train(mode)
        for block in self.blocks[: self.freeze_blocks]:
            block.eval()
        return self

    @property
    def size_divisibility(self) -> int:
        """Height and width of the images must be multiples of the patch."""
        return self.patch_size

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W), normalised -> ``{"last_feat": (N, D, h, w)}``.

        Raises:
            ValueError: H and W are not multiples of `size_divisibility`.
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


class MAEFeaturePyramid(SimpleFeaturePyramid):
    """Detectron2's `SimpleFeaturePyramid` for patches of 4, 8 or 16 pixels and any image size.

    ViTDet, arXiv 2203.16527, section 3. The parameters have Detectron2's names (``net.*``,
    ``simfp_2`` to ``simfp_5``).

    Args:
        net: the transformer.
        out_channels: channels of every level.
        levels: consecutive ones of "p2" (stride 4) to "p6" (stride 64), beginning with "p2" or
            "p3". "p6" is every second cell of "p5", as in Detectron2.
        norm: of the pyramid's convolutions; "LN" is ViTDet's.

    Raises:
        ValueError: other levels, or patches from which they cannot be computed.
    """

    def __init__(
        self, net: MAEViT, out_channels: int, levels: Sequence[str] = LEVELS, norm: str = "LN"
    ) -> None:
        levels = _checked_levels(levels)
        if net.patch_size not in (4, 8, 16):
            raise ValueError(
                f"MODEL.MAE.PATCH_SIZE: found {net.patch_size}, expected one of (4, 8, 16) for "
                "a pyramid (weights for patches of 14 pixels are resampled to 16 on loading)"
            )
        strides = {name: 2 ** int(name[1:]) for name in levels}
        scales = {name: net.patch_size / strides[name] for name in levels if name != "p6"}
        known = [scale for scale in scales.values() if scale >= 0.5]  # that Detectron2 builds
        super().__init__(net, OUT_FEATURE, out_channels, known, norm=norm)
        for name in list(scales)[len(known) :]:
            self._add_coarse_stage(name, scales[name], out_channels, norm)
        self.top_block = LastLevelMaxPool() if "p6" in levels else None
        self._out_features = levels
        self._out_feature_channels = dict.fromkeys(levels, out_channels)
        self._out_feature_strides = strides
        self._size_divisibility = max(net.patch_size, *(strides[name] for name in scales))

    def _add_coarse_stage(self, name: str, scale: float, out_channels: int, norm: str) -> None:
        """Detectron2's stage of scale 0.5, for the smaller scales that it does not build."""
        dim = self.net.output_shape()[OUT_FEATURE].channels
        use_bias = norm == ""

        def conv(in_channels: int, kernel_size: int) -> Conv2d:
            return Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                padding=kernel_size // 2,
                bias=use_bias,
                norm=get_norm(norm, out_channels),
            )

        side = round(1 / scale)
        stage = nn.Sequential(nn.MaxPool2d(side, side), conv(dim, 1), conv(out_channels, 3))
        self.add_module(f"simfp_{name[1:]}", stage)
        self.stages.append(stage)

    @property
    def size_divisibility(self) -> int:
        """Height and width of the images must be multiples of it, so that no level is cropped."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """How `ImageList` must pad a batch; Detectron2 writes the first key "size_divisiblity"."""
        return {"size_divisibility": self.size_divisibility, "square_size": self._square_pad}


def _checked_levels(levels: Sequence[str]) -> list[str]:
    levels = list(levels)
    first = LEVELS.index(levels[0]) if levels and levels[0] in LEVELS else len(LEVELS)
    if first > 1 or tuple(levels) != LEVELS[first : first + len(levels)]:
        raise ValueError(
            f"MODEL.VIT.LEVELS: found {levels}, expected consecutive ones of {list(LEVELS)}, "
            "finest first, beginning with p2 or p3"
        )
    return levels


@BACKBONE_REGISTRY.register()
def build_mae_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MAEViT:
    """MAE's encoder, one feature map ``last_feat`` of the patch's stride.

    ``cfg``: ``MODEL.MAE`` (size, patch, positions: the keys of pre-training) and ``MODEL.VIT`` (see
    `add_backbone_config`).
    """
    return MAEViT(**vit_arguments(cfg), in_channels=input_shape.channels)


@BACKBONE_REGISTRY.register()
def build_mae_vit_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MAEFeaturePyramid:
    """MAE's encoder and the simple feature pyramid.

    ``cfg``: as `build_mae_vit_backbone`, ``MODEL.VIT.LEVELS`` and ``MODEL.FPN.{OUT_CHANNELS,
    NORM}``.
    """
    return MAEFeaturePyramid(
        build_mae_vit_backbone(cfg, input_shape),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        levels=list(cfg.MODEL.VIT.LEVELS),
        norm=cfg.MODEL.FPN.NORM,
    )


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
