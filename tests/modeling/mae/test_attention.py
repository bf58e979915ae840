"""Attention written out where that is faster: the same answers, and only there."""

from __future__ import annotations

import pytest
import torch

from d2_multitask.modeling.backbones.vit import ScaledDotProductAttention
from d2_multitask.modeling.mae.blocks import MAX_TOKENS, matrix_is_faster
from mae_support import small_mae

TOKENS = torch.zeros(2, 5, 8)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """How often the fused kernel was called."""
    calls = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(1)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    return calls


def test_only_for_training_in_bfloat16_of_few_tokens():
    assert not matrix_is_faster(TOKENS)
    assert matrix_is_faster(TOKENS.bfloat16())
    assert not matrix_is_faster(TOKENS.bfloat16().to("meta"))
    assert not matrix_is_faster(torch.zeros(1, MAX_TOKENS + 1, 8, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert matrix_is_faster(TOKENS)
        with torch.no_grad():
            assert not matrix_is_faster(TOKENS)
    with torch.autocast("cpu", torch.float16):
        assert not matrix_is_faster(TOKENS)


def test_autoencoder_changes_its_kernel_and_not_its_answer(calls):
    model = small_mae()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    losses = []
    for gradients in (True, False):
        calls.clear()
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16):
            losses.append(model.reconstruct(images, mask_ratio=0.5, noise=noise).loss.item())
        assert bool(calls) is not gradients
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_timms_switch_is_obeyed(calls, monkeypatch):
    import timm.layers.config

    monkeypatch.setattr(timm.layers.config, "_USE_FUSED_ATTN", 0)
    model = small_mae()
    with torch.no_grad():
        model.reconstruct(torch.zeros(1, 3, 32, 32), mask_ratio=0.5)
    assert not calls


@pytest.mark.parametrize("use_rel_pos", [False, True])
def test_backbone_changes_its_kernel_and_not_its_answer(calls, use_rel_pos):
    torch.manual_seed(0)
    # As many places that relative positions call the kernel, too.
    attention = ScaledDotProductAttention(
        8, num_heads=2, use_rel_pos=use_rel_pos, input_size=(16, 16)
    )
    x = torch.randn(1, 16, 16, 8)
    answers = []
    for gradients in (True, False):
        calls.clear()
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16):
            answers.append(attention(x).float())
        assert bool(calls) is not gradients
    assert torch.allclose(*answers, atol=1e-2)
