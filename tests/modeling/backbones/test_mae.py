"""The masked autoencoder as a backbone: whose features, which gradients, which weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from d2_multitask.checkpoint import load_weights
from d2_multitask.checkpoint.report import LoadReport
from d2_multitask.config import get_multitask_cfg
from d2_multitask.modeling.backbones.mae import (
    MAEBackbone,
    build_mae_decoder_backbone,
    build_mae_encoder_backbone,
)
from d2_multitask.modeling.mae.weights import is_encoder_name
from mae_support import authors_weights, small_mae

BUILDERS = {"encoder": build_mae_encoder_backbone, "decoder": build_mae_decoder_backbone}


def small_backbone(
    kind: str,
    tasks: tuple[str, ...] = ("foreground",),
    image_size: tuple[int, int] = (32, 32),
    **own: Any,
) -> MAEBackbone:
    """The size of `small_mae`."""
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = list(tasks)
    cfg.MODEL.MAE.merge_from_list(
        [
            *("PATCH_SIZE", 8, "EMBED_DIM", 16, "DEPTH", 2, "NUM_HEADS", 2),
            *("DECODER_EMBED_DIM", 12, "DECODER_DEPTH", 2, "DECODER_NUM_HEADS", 3),
            *("IMAGE_SIZE", image_size),
        ]
    )
    for key, value in own.items():
        cfg.MODEL.MAE_BACKBONE[key] = value
    torch.manual_seed(7)
    return BUILDERS[kind](cfg, ShapeSpec(channels=3))


def load(backbone: MAEBackbone, path: str) -> LoadReport:
    """Load as a part of a network, which is what a backbone is."""
    return load_weights(nn.ModuleDict({"backbone": backbone}), path)


@pytest.fixture
def weights(tmp_path) -> str:
    path = tmp_path / "mae.pth"
    torch.save({"model": small_mae().state_dict()}, path)
    return str(path)


@pytest.fixture
def encoder_weights(tmp_path) -> str:
    names = authors_weights(small_mae())
    path = tmp_path / "encoder.pth"
    torch.save({"model": {n: v for n, v in names.items() if is_encoder_name(n)}}, path)
    return str(path)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_features_are_the_autoencoders(size, weights):
    """Token i of the encoder with the class token, at its place in the image; so the decoder's."""
    mae, images = small_mae().eval(), torch.randn(2, 3, *size)
    grid = size[0] // 8, size[1] // 8
    latent = mae.encoder(images)
    order = torch.arange(grid[0] * grid[1]).expand(2, -1)
    expected = {"encoder": latent[:, 1:], "decoder": mae.decoder.decode(latent, order, grid)}
    for kind, tokens in expected.items():
        backbone = small_backbone(kind).eval()
        load(backbone, weights)
        features = backbone(images)["last_feat"]
        shape = backbone.output_shape()["last_feat"]
        assert features.shape == (2, shape.channels, *grid) and shape.stride == 8
        for y, x in ((0, 0), (1, 3), (grid[0] - 1, 2)):
            torch.testing.assert_close(features[:, :, y, x], tokens[:, y * grid[1] + x])


def test_a_fresh_decoder_leaves_the_files_one_out(weights, encoder_weights):
    for path in (weights, encoder_weights):
        backbone = small_backbone("decoder", FRESH_DECODER=True)
        before = backbone.decoder.decoder_embed.weight.clone()
        report = load(backbone, path)
        assert torch.equal(backbone.encoder.cls_token, small_mae().encoder.cls_token)
        assert torch.equal(backbone.decoder.decoder_embed.weight, before)
        assert all(name.startswith("backbone.decoder.") for name in report.fresh)


def test_a_pretrained_decoder_is_wanted_where_the_config_says_so(weights, encoder_weights):
    backbone = small_backbone("decoder")
    assert not load(backbone, weights).fresh
    expected = small_mae().decoder.decoder_blocks[1].attn.qkv.weight
    assert torch.equal(backbone.decoder.decoder_blocks[1].attn.qkv.weight, expected)
    with pytest.raises(ValueError, match="without a decoder.*MAE_BACKBONE.FRESH_DECODER to True"):
        load(small_backbone("decoder"), encoder_weights)
    load(small_backbone("encoder"), encoder_weights)  # which has no use for one


def test_a_trained_mask_decoder_is_never_left_out(tmp_path):
    """Also not where the file does not fit as it is, here for positions on another grid."""
    trained = small_backbone("decoder", FRESH_DECODER=True)
    path = tmp_path / "model_final.pth"
    names = {f"backbone.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"model": names}, path)
    backbone = small_backbone("decoder", FRESH_DECODER=True, image_size=(40, 48))
    nn.init.zeros_(backbone.decoder.decoder_embed.weight)
    report = load(backbone, str(path))
    assert not report.fresh
    assert {one.name.split(".")[-1] for one in report.resized} == {"pos_embed", "decoder_pos_embed"}
    expected = trained.decoder.decoder_embed.weight
    assert torch.equal(backbone.decoder.decoder_embed.weight, expected)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_frozen_encoder_learns_nothing(kind):
    backbone = small_backbone(kind, ("foreground", "reconstruction"), FREEZE_ENCODER=True)
    backbone.train()
    assert not any(module.training for module in backbone.encoder.modules())
    assert backbone.decoder.training
    images = torch.randn(2, 3, 32, 32)
    features = backbone(images)["last_feat"]
    assert features.requires_grad == (kind == "decoder")
    (features.sum() + backbone.reconstruct(images, mask_ratio=0.5).loss).backward()
    assert all(parameter.grad is None for parameter in backbone.encoder.parameters())
    assert backbone.decoder.decoder_pred.weight.grad.abs().sum() > 0


def test_a_decoder_is_built_where_it_is_used():
    assert small_backbone("encoder").decoder is None
    assert small_backbone("encoder", ("reconstruction",)).decoder.decoder_pred.out_features == 192
    names = dict(small_backbone("decoder").named_parameters())
    assert "decoder.decoder_blocks.1.norm1.weight" in names
    assert not any("decoder_pred" in name for name in names)
    with pytest.raises(ValueError, match="without a decoder"):
        MAEBackbone(encoder=small_mae().encoder, decoder=None, reads_decoder=True)


def test_every_parameter_learns():
    backbone = small_backbone("decoder").train()
    backbone(torch.randn(1, 3, 32, 32))["last_feat"].square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name
