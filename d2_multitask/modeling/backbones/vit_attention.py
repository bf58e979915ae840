"""Detectron2's attention computed by PyTorch's `scaled_dot_product_attention`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.utils import get_rel_pos
from detectron2.modeling.backbone.vit import Attention
from torch import Tensor

from d2_multitask.modeling.attention import matrix_is_faster


class ScaledDotProductAttention(Attention):
    """The same parameters and the same answer as Detectron2's `Attention`, in less memory.

    Without relative positions the matrix of weights, (N, heads, h * w, h * w), is never held. With
    them (MViTv2, arXiv 2112.01526, section 4.1) neither, but for small windows: what they add to a
    logit depends on the query and the key's row, plus the query and the key's column. So it is a
    product of h + w more channels: the query's hold what it would add for each row and column, the
    key's are 1 at its own row and its own column, else 0. (As an `attn_mask` that is learnt,
    PyTorch would hold the matrix several times over.)
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
        if self.use_rel_pos:
            x = self._attend_with_positions(q, k, v, (h, w))
        else:
            x = _attend(q, k, v, self.scale)
        return self.proj(x.transpose(1, 2).reshape(n, h, w, -1))

    def _attend_with_positions(
        self, q: Tensor, k: Tensor, v: Tensor, grid_hw: tuple[int, int]
    ) -> Tensor:
        """(N, heads, h * w, D / heads) each -> the same."""
        places = _one_hot_places(grid_hw).to(k).expand(*k.shape[:2], -1, -1)
        q = torch.cat([q * self.scale, self._relative_positions(q, grid_hw)], dim=-1)
        k = torch.cat([k, places], dim=-1)
        # The matrix is smaller than what the kernel would keep, or just faster.
        if q.shape[2] <= 3 * q.shape[3] or matrix_is_faster(q):
            return _written_out(q, k, v)
        # As many channels as the others, which PyTorch's fast kernels ask for.
        padded = F.pad(v, (0, sum(grid_hw)))
        return F.scaled_dot_product_attention(q, k, padded, scale=1.0)[..., : v.shape[-1]]

    def _relative_positions(self, q: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """What each query adds for the keys of each row, then of each column.

        (N, heads, h * w, D / heads) -> (N, heads, h * w, h + w).
        """
        h, w = grid_hw
        rows = get_rel_pos(h, h, self.rel_pos_h)  # (h, h, D / heads): of a row to a row
        columns = get_rel_pos(w, w, self.rel_pos_w)
        q = q.unflatten(2, (h, w))
        vertical = torch.einsum("nahwc,hkc->nahwk", q, rows)
        horizontal = torch.einsum("nahwc,wkc->nahwk", q, columns)
        return torch.cat([vertical, horizontal], dim=-1).flatten(2, 3).to(q.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """(N, heads, T, D) each -> the same."""
    if matrix_is_faster(q):
        return _written_out(q * scale, k, v)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def _one_hot_places(grid_hw: tuple[int, int]) -> Tensor:
    """(h * w, h + w): of each place, 1 at its row and, after the rows, at its column."""
    h, w = grid_hw
    rows = torch.eye(h).repeat_interleave(w, dim=0)
    return torch.cat([rows, torch.eye(w).repeat(h, 1)], dim=1)
