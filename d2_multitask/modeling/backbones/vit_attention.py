"""Detectron2's attention computed by PyTorch's `scaled_dot_product_attention`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.utils import get_rel_pos
from detectron2.modeling.backbone.vit import Attention
from torch import Tensor


class ScaledDotProductAttention(Attention):
    """The same parameters and the same answer as Detectron2's `Attention`, in less memory.

    Without relative positions the matrix of weights, (N, heads, h * w, h * w), is never held. With
    them (MViTv2, arXiv 2112.01526, section 4.1) it is, once, as the bias that they are; Detectron2
    holds it several times over.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Every place attends to every place.

        Args:
            x: (N, h, w, D), or windows in place of images.

        Returns:
            (N, h, w, D).
        """
        n, h, w, _ = x.shape
        qkv = self.qkv(x).reshape(n, h * w, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, h * w, D / heads) each
        bias = self._relative_positions(q, (h, w)) if self.use_rel_pos else None
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        return self.proj(x.transpose(1, 2).reshape(n, h, w, -1))

    def _relative_positions(self, q: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """What is added to the attention's logits, (N, heads, h * w, h * w)."""
        h, w = grid_hw
        rows = get_rel_pos(h, h, self.rel_pos_h)  # (h, h, D / heads): of a row to a row
        columns = get_rel_pos(w, w, self.rel_pos_w)
        places = q.unflatten(2, (h, w))
        vertical = torch.einsum("nahwc,hkc->nahwk", places, rows)
        horizontal = torch.einsum("nahwc,wkc->nahwk", places, columns)
        bias = vertical[..., :, None] + horizontal[..., None, :]  # (N, heads, h, w, h, w)
        return bias.flatten(4).flatten(2, 3).to(q.dtype)
