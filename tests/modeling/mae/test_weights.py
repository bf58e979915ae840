"""Files of every dialect through the loading that training uses."""

from __future__ import annotations

import argparse

import pytest
import torch

from d2_multitask.checkpoint import MultitaskCheckpointer, load_weights
from d2_multitask.modeling.mae import MAEEncoder
from d2_multitask.modeling.mae.position_embedding import sincos_position_embedding
from mae_support import DIALECTS, authors_weights, in_dialect, small_mae


@pytest.fixture(scope="module")
def source():
    return small_mae(seed=1).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def save(weights, path):
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in weights.items()}, str(path))
    else:
        torch.save({"model": weights, "args": argparse.Namespace(lr=0.1), "epoch": 3}, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("dialect", [d for d in DIALECTS if d != "timm"])
def test_same_output_from_every_dialect(dialect, suffix, source, images, tmp_path):
    weights = in_dialect(authors_weights(source), dialect)
    model = small_mae(seed=2).eval()
    report = load_weights(model, save(weights, tmp_path / f"mae{suffix}"))
    assert len(report.matched) == len(model.state_dict())
    assert not report.fresh and not report.unused and not report.mismatched and not report.resized
    noise = torch.rand(2, 16)
    expected, found = (m.reconstruct(images, noise=noise) for m in (source, model))
    assert (expected.pred - found.pred).abs().max() < 1e-5
    assert (expected.error - found.error).abs().max() < 1e-5


@pytest.mark.parametrize("dialect", DIALECTS)
def test_encoder_alone(dialect, source, images, tmp_path):
    encoder = MAEEncoder(image_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2)
    weights = in_dialect(authors_weights(source), dialect)
    report = load_weights(encoder, save(weights, tmp_path / "mae.pth"))
    assert len(report.matched) == len(encoder.state_dict())
    assert bool(report.unused) == (dialect != "timm")  # the decoder
    assert (encoder(images) - source.encoder(images)).abs().max() < 1e-5


def test_timms_own_network_gives_the_same_output(images, tmp_path):
    """An independent network, whose weights come in by its own names."""
    from timm.models.vision_transformer import VisionTransformer

    theirs = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    encoder = MAEEncoder(image_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2)
    report = load_weights(encoder, save(theirs.state_dict(), tmp_path / "timm.safetensors"))
    assert not report.fresh and not report.unused
    assert (encoder.eval()(images) - theirs.eval().forward_features(images)).abs().max() < 1e-5


def test_encoder_only_file_is_refused_where_a_decoder_is_needed(source, tmp_path):
    path = save(in_dialect(authors_weights(source), "timm"), tmp_path / "mae.pth")
    with pytest.raises(ValueError, match="without a decoder.*REQUIRE_DECODER_WEIGHTS"):
        load_weights(small_mae(), path)
    model = small_mae(seed=2, require_decoder_weights=False)
    before = model.decoder.mask_token.clone()
    report = load_weights(model, path)
    assert {name.split(".")[0] for name in report.fresh} == {"decoder"}
    assert torch.equal(model.decoder.mask_token, before)
    assert torch.equal(model.encoder.cls_token, source.encoder.cls_token)


def test_file_of_another_size_is_refused(source, tmp_path):
    encoder = MAEEncoder(image_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2)
    path = save(authors_weights(source), tmp_path / "mae.pth")
    with pytest.raises(ValueError, match="0 of 42.*16 channels, 2 blocks.*24 channels, 3 blocks"):
        load_weights(encoder, path)


def test_file_with_more_blocks_is_refused(source, tmp_path):
    """What the network has is all in the file, but without its last block it is another network."""
    encoder = MAEEncoder(image_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    path = save(authors_weights(source), tmp_path / "mae.pth")
    with pytest.raises(ValueError, match="1 of the file's 2 blocks.*2 blocks.*expected.*1 blocks"):
        load_weights(encoder, path)


def test_fewer_than_nine_tenths_are_refused(source, tmp_path):
    weights = authors_weights(source)
    removed = [name for name in weights if name.startswith("blocks.1.mlp")]
    for name in removed:
        del weights[name]
    with pytest.raises(ValueError, match="26 of 30 tensors of the encoder match"):
        load_weights(small_mae(), save(weights, tmp_path / "mae.pth"))


def test_another_network_is_refused(tmp_path):
    path = save({"layer1.conv.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="another architecture"):
        load_weights(small_mae(), path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_file(suffix, source, tmp_path):
    path = tmp_path / f"mae{suffix}"
    save(authors_weights(source), path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="damaged, cut off"):
        load_weights(small_mae(), str(path))


@pytest.mark.parametrize("mode", ["bicubic", "sincos"])
def test_positions_move_to_a_rectangular_grid(mode, source, tmp_path):
    encoder = MAEEncoder(
        image_size=(24, 48),
        patch_size=8,
        embed_dim=16,
        depth=2,
        num_heads=2,
        position_resize=mode,
    )
    fresh = encoder.pos_embed.clone()
    report = load_weights(encoder, save(authors_weights(source), tmp_path / "mae.pth"))
    assert [(r.name, r.file_shape, r.model_shape) for r in report.resized] == [
        ("pos_embed", (1, 17, 16), (1, 19, 16))
    ]
    assert "Resized to the model's shape" in str(report)
    assert not torch.equal(encoder.pos_embed, fresh)
    table = source.encoder.pos_embed[0, 1:].T.reshape(1, 16, 4, 4)
    expected = torch.nn.functional.interpolate(table, size=(3, 6), mode="bicubic")[0]
    expected = expected.flatten(1).T
    if mode == "sincos":
        expected = sincos_position_embedding(16, (3, 6), (4, 4))
    assert torch.allclose(encoder.pos_embed[0, 1:], expected, atol=1e-6)


def test_larger_patches_see_the_same_in_a_resized_image(source, images, tmp_path):
    """Kernels for 16 pixels on an image that is enlarged to twice its size give the same tokens."""
    encoder = MAEEncoder(image_size=64, patch_size=16, embed_dim=16, depth=2, num_heads=2)
    report = load_weights(encoder, save(authors_weights(source), tmp_path / "mae.pth"))
    assert [r.name for r in report.resized] == ["patch_embed.proj.weight"]
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8)  # (N, 3, 4, 4, 8, 8), each resized by itself
    flat = patches.reshape(-1, 1, 8, 8)
    large = torch.nn.functional.interpolate(flat, size=16, mode="bicubic", antialias=True)
    large = large.view(2, 3, 4, 4, 16, 16).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(encoder.embed(large), source.encoder.embed(images), atol=1e-3)


def test_a_checkpoint_of_ours_is_resumed_as_it_is(source, tmp_path):
    MultitaskCheckpointer(source, str(tmp_path)).save("model_0")
    model = small_mae(seed=2)
    checkpointer = MultitaskCheckpointer(model, str(tmp_path))
    checkpointer.resume_or_load("", resume=True)
    assert checkpointer.report.dialect == ""
    assert torch.equal(model.decoder.mask_token, source.decoder.mask_token)
    other = small_mae(image_size=64)
    with pytest.raises(ValueError, match="cannot be resumed.*of another shape"):
        MultitaskCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)
