"""Translation of names; the expected names are written out here, not taken from the tables."""

from __future__ import annotations

import pytest
import torch

from convert_mae_weights import from_authors_names
from d2_multitask.modeling.mae.weights import (
    is_decoder_name,
    to_authors_names,
)
from mae_support import DIALECTS, authors_weights, in_dialect, small_mae

# What transformers 5.23 has in memory, and what is in the files of the hub.
V5 = """
vit.layers.1.attention.q_proj.weight vit.layers.1.attention.k_proj.bias
vit.layers.1.attention.v_proj.weight vit.layers.1.attention.o_proj.weight
vit.layers.1.layernorm_before.weight vit.layers.1.layernorm_after.bias
vit.layers.1.mlp.fc1.weight vit.layers.1.mlp.fc2.bias vit.layernorm.weight
vit.embeddings.cls_token vit.embeddings.position_embeddings
vit.embeddings.patch_embeddings.projection.weight
decoder.decoder_layers.0.attention.q_proj.weight decoder.decoder_layers.0.mlp.fc2.weight
decoder.decoder_embed.weight decoder.mask_token decoder.decoder_pos_embed decoder.decoder_pred.bias
decoder.decoder_norm.weight
"""
V4 = """
vit.encoder.layer.1.attention.attention.query.weight
vit.encoder.layer.1.attention.attention.key.bias
vit.encoder.layer.1.attention.attention.value.weight
vit.encoder.layer.1.attention.output.dense.weight vit.encoder.layer.1.layernorm_before.weight
vit.encoder.layer.1.layernorm_after.bias vit.encoder.layer.1.intermediate.dense.weight
vit.encoder.layer.1.output.dense.bias vit.layernorm.weight
decoder.decoder_layers.0.attention.attention.query.weight
decoder.decoder_layers.0.output.dense.weight decoder.mask_token
"""


@pytest.fixture(scope="module")
def weights():
    return authors_weights(small_mae())


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_round_trip(dialect, weights):
    translated = to_authors_names(in_dialect(weights, dialect))
    expected = weights
    if dialect == "timm":
        expected = {k: v for k, v in weights.items() if not is_decoder_name(k)}
    assert same(translated.weights, expected)
    assert translated.dialect == ("authors" if dialect == "timm" else dialect)


@pytest.mark.parametrize(("dialect", "names"), [("huggingface_v4", V4), ("huggingface_v5", V5)])
def test_names_of_hugging_face(dialect, names, weights):
    written = in_dialect(weights, dialect)
    assert set(names.split()) <= set(written)
    blocks = 2 * 2 * (4 + 4 + 4 + 4)  # norms, q k v and proj: 8, mlp: 4 tensors; of 2 + 2 blocks
    assert len(written) == blocks + 2 * 2 + 2 + 2 + 2 + 2 * 2  # norms, embeddings, tokens, tables


def test_qkv_is_query_then_key_then_value(weights):
    written = in_dialect(weights, "huggingface_v5")
    qkv = weights["blocks.0.attn.qkv.weight"]
    assert torch.equal(written["vit.layers.0.attention.q_proj.weight"], qkv[:16])
    assert torch.equal(written["vit.layers.0.attention.v_proj.weight"], qkv[32:])


def test_decoder_as_transformers_5_saves_it(weights):
    written = from_authors_names(weights, "huggingface_v4")
    renamed = {
        k.replace("decoder.decoder_layers.", "decoder.decoder_encoder.layer."): v
        for k, v in written.items()
    }
    assert renamed.keys() != written.keys()
    assert same(to_authors_names(renamed).weights, weights)


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.net.", "model.encoder_q."])
def test_prefixes(prefix, weights):
    file = {prefix + name: value for name, value in weights.items()}
    file["head.weight"] = torch.zeros(3)
    translated = to_authors_names(file)
    assert same(translated.weights, weights)
    assert translated.sources["norm.weight"] == [f"{prefix}norm.weight"]


def test_encoder_without_vit_prefix(weights):
    written = from_authors_names(weights, "huggingface_v4")
    encoder = {k[4:]: v for k, v in written.items() if k.startswith("vit.")}
    translated = to_authors_names(encoder)
    assert not translated.has_decoder and "blocks.1.mlp.fc2.bias" in translated.weights


def test_missing_value_is_told(weights):
    written = from_authors_names(weights, "huggingface_v4")
    del written["vit.encoder.layer.1.attention.attention.key.bias"]
    with pytest.raises(
        ValueError, match=r"mae.bin: found .*blocks\.1\.attn\.qkv\.bias.*incomplete"
    ):
        to_authors_names(written, "mae.bin")


def test_another_network_is_none():
    assert to_authors_names({"layer1.0.conv1.weight": torch.zeros(1)}) is None


def test_unknown_dialect(weights):
    with pytest.raises(ValueError, match="found 'keras', expected one of"):
        from_authors_names(weights, "keras")
