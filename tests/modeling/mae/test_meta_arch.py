"""The paper's steps, against computations that are written out here."""

from __future__ import annotations

import copy

import pytest
import torch

from d2_multitask.modeling.mae.masking import VARIANCE_EPS, masking_from_visible
from mae_support import small_mae


@pytest.fixture(scope="module")
def model():
    return small_mae().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_encoder_is_a_plain_transformer_on_the_visible_tokens(model, images):
    """Attention written out with a softmax, every weight read by its name."""
    state = model.encoder.state_dict()
    visible = torch.zeros(2, 16, dtype=torch.bool)
    visible[0, [1, 6, 7]] = visible[1, [0, 2, 15]] = True
    with torch.no_grad():
        ids_keep = masking_from_visible(visible).ids_keep
        found = model.encoder.encode(model.encoder.embed(images, ids_keep))
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    for n in range(2):
        ids = visible[n].nonzero()[:, 0].tolist()
        tokens = [state["cls_token"][0, 0] + state["pos_embed"][0, 0]]
        for i in ids:
            y, x = 8 * (i // 4), 8 * (i % 4)
            patch = images[n, :, y : y + 8, x : x + 8]
            tokens.append((kernel * patch).sum((1, 2, 3)) + bias + state["pos_embed"][0, 1 + i])
        x = torch.stack(tokens)
        for block in range(2):
            x = x + attention(normed(x, state, f"blocks.{block}.norm1"), state, f"blocks.{block}")
            hidden = linear(normed(x, state, f"blocks.{block}.norm2"), state, block, "mlp.fc1")
            hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
            x = x + linear(hidden, state, block, "mlp.fc2")
        assert torch.allclose(found[n], normed(x, state, "norm"), atol=1e-5)


def normed(x, state, name):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, block, name):
    start = f"blocks.{block}.{name}"
    return x @ state[f"{start}.weight"].T + state[f"{start}.bias"]


def attention(x, state, name, heads=2):
    qkv = x @ state[f"{name}.attn.qkv.weight"].T + state[f"{name}.attn.qkv.bias"]
    q, k, v = qkv.chunk(3, dim=1)
    size = x.shape[1] // heads
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        weights = (q[:, part] @ k[:, part].T / size**0.5).softmax(-1)
        out.append(weights @ v[:, part])
    projected = torch.cat(out, 1) @ state[f"{name}.attn.proj.weight"].T
    return projected + state[f"{name}.attn.proj.bias"]


def test_decoder_puts_mask_tokens_where_patches_are_missing(model, images):
    visible = torch.zeros(2, 16, dtype=torch.bool)
    visible[:, [3, 9]] = True
    ids_keep, ids_restore, _ = masking_from_visible(visible)
    latent = model.encoder.encode(model.encoder.embed(images, ids_keep))
    decoder = model.decoder
    x = torch.cat([latent.new_zeros(2, 1, 12), decoder.mask_token.expand(2, 16, -1)], 1).clone()
    x[:, [0, 4, 10]] = decoder.decoder_embed(latent)
    x = x + decoder.decoder_pos_embed
    for block in decoder.decoder_blocks:
        x = block(x)
    expected = decoder.decoder_pred(decoder.decoder_norm(x))[:, 1:]
    assert torch.allclose(model.forward_decoder(latent, ids_restore), expected, atol=1e-5)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_loss_counts_removed_patches_only(norm_pix_loss, images):
    model = small_mae(norm_pix_loss=norm_pix_loss)
    pred = torch.randn(2, 16, 192)
    mask = torch.zeros(2, 16)
    mask[0, 5] = mask[1, 0] = mask[1, 15] = 1
    loss, error = model.forward_loss(images, pred, mask)
    errors = []
    for n, i in ((0, 5), (1, 0), (1, 15)):
        y, x = 8 * (i // 4), 8 * (i % 4)
        target = images[n, :, y : y + 8, x : x + 8].permute(1, 2, 0).flatten()
        if norm_pix_loss:
            target = (target - target.mean()) / (target.var() + VARIANCE_EPS).sqrt()
        errors.append(((pred[n, i] - target) ** 2).mean())
        assert error[n, i].item() == pytest.approx(errors[-1].item(), rel=1e-5)
    assert loss.item() == pytest.approx(sum(errors).item() / 3, rel=1e-5)
    pred[0, 4] += 100  # visible
    assert model.forward_loss(images, pred, mask)[0] == loss


def test_nothing_removed_is_no_loss_but_has_a_graph(images):
    model = small_mae()
    output = model.reconstruct(images, mask_ratio=0.0)
    assert output.loss == 0
    output.loss.backward()
    assert torch.isfinite(model.encoder.patch_embed.proj.weight.grad).all()


def test_encoder_step_is_embedding_then_random_masking(model, images):
    noise = torch.rand(2, 16)
    x, mask, ids_restore = model.random_masking(model.encoder.embed(images), 0.75, noise)
    found = model.forward_encoder(images, 0.75, noise=noise)
    assert torch.allclose(found[0], model.encoder.encode(x), atol=1e-5)
    assert torch.equal(found[1], mask) and torch.equal(found[2], ids_restore)


def test_random_and_given_sets_agree(model, images):
    noise = torch.rand(2, 16)
    drawn = model.reconstruct(images, mask_ratio=0.75, noise=noise)
    assert drawn.mask.sum(1).tolist() == [12, 12]
    as_mask = model.reconstruct(images, drawn.mask == 0)
    as_indices = model.reconstruct(images, noise.argsort(1)[:, :4])
    for given in (as_mask, as_indices):
        assert torch.equal(given.mask, drawn.mask)
        assert torch.allclose(given.pred, drawn.pred, atol=1e-5)
        assert torch.allclose(given.loss, drawn.loss, atol=1e-6)


def test_many_sets_of_different_sizes_are_each_as_alone(model, images):
    sets = torch.rand(2, 5, 16, generator=torch.Generator().manual_seed(1)) > 0.6
    sets[..., 0] = True
    assert len(sets.sum(-1).unique()) > 2
    output = model.reconstruct(images, sets)
    assert output.pred.shape == (2, 5, 16, 192) and output.error.shape == (2, 5, 16)
    for n in range(2):
        for m in range(5):
            alone = model.reconstruct(images[n : n + 1], sets[n, m])
            assert torch.allclose(output.pred[n, m], alone.pred[0], atol=1e-5)
            assert torch.allclose(output.error[n, m], alone.error[0], atol=1e-5)
            assert torch.equal(output.mask[n, m] == 0, sets[n, m])


def test_many_sets_embed_the_patches_once(images):
    model = small_mae()
    calls = []
    model.encoder.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    output = model.reconstruct(images, torch.rand(2, 7, 16).argsort(-1)[..., :3])
    assert output.pred.shape[:2] == (2, 7) and len(calls) == 1


@pytest.mark.parametrize("hw", [(32, 48), (16, 24), (40, 8)])
def test_any_size_that_the_patch_divides(model, hw):
    output = model.reconstruct(torch.randn(1, 3, *hw))
    assert output.pred.shape == (1, hw[0] * hw[1] // 64, 192)
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize(("hw", "message"), [((30, 32), "cannot be cut"), ((4, 32), "smaller")])
def test_sizes_that_do_not_fit_name_the_file(model, hw, message):
    batch = [{"image": torch.zeros(3, *hw, dtype=torch.uint8), "file_name": "a.png"}]
    with pytest.raises(ValueError, match=f"a.png: .*{message}"):
        model(batch)


def test_training_images_of_two_sizes():
    batch = [
        {"image": torch.zeros(3, side, 32, dtype=torch.uint8), "file_name": f"{side}.png"}
        for side in (32, 40)
    ]
    with pytest.raises(ValueError, match=r"40\.png: found 32x40.*RANDOM_RESIZED_CROP"):
        small_mae()(batch)


def test_gradients_reach_everything_that_is_learned(images):
    model = small_mae()
    batch = [{"image": image * 60 + 120} for image in images]
    losses = model(batch)
    assert set(losses) == {"loss_reconstruction"}
    losses["loss_reconstruction"].backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == ["encoder.pos_embed", "decoder.decoder_pos_embed"]


def test_ratio_varies_between_its_bounds(images):
    torch.manual_seed(0)
    model = small_mae(mask_ratio=(0.5, 0.9))
    removed = {int(model.reconstruct(images).mask[0].sum()) for _ in range(40)}
    assert min(removed) >= 8 and max(removed) <= 15 and len(removed) > 3
    with pytest.raises(ValueError, match="expected \\(low, high\\)"):
        small_mae(mask_ratio=(0.9, 0.5))


def test_answers_in_evaluation(model):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 24, 40), dtype=torch.uint8)
    (result,) = model([{"image": image, "file_name": "folder/a.png"}])
    assert result["reconstruction"].shape == (3, 24, 40)
    assert result["patch_mask"].shape == result["patch_error"].shape == (3, 5)
    assert int(result["patch_mask"].sum()) == 12
    # the mask is the file's, wherever the folder is and whatever else is in the batch
    other = {"image": image.flip(0), "file_name": "b.png"}
    again = model([other, {"image": image, "file_name": "elsewhere/a.png"}])
    assert torch.equal(again[1]["patch_mask"], result["patch_mask"])
    assert not torch.equal(again[0]["patch_mask"], result["patch_mask"])


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_a_perfect_prediction_becomes_the_image(norm_pix_loss):
    model = small_mae(norm_pix_loss=norm_pix_loss)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    images = model.preprocess_image([{"image": image}])
    target = model.patchify(images)
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / target.var(-1, keepdim=True).sqrt()
    assert torch.allclose(model.to_pixels(images, target)[0], image.float(), atol=0.01)
    assert torch.equal(model.unpatchify(model.patchify(images)), images)


def test_low_precision_keeps_the_loss_in_float32(images):
    with torch.autocast("cpu", torch.bfloat16):
        output = small_mae().reconstruct(images)
    assert output.loss.dtype == output.error.dtype == torch.float32


def test_copies_and_checkpoints_hold_the_position_embedding(model, images):
    model.reconstruct(images[..., :16])  # fills the cache of other sizes
    copied = copy.deepcopy(model)
    assert "encoder.pos_embed" in copied.state_dict()
    noise = torch.rand(2, 8)
    first, second = (m.reconstruct(images[..., :16], noise=noise) for m in (model, copied))
    assert torch.equal(first.pred, second.pred)
