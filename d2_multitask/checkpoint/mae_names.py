"""The names that the tensors of an MAE have in public files, and their translation.

- `authors`: the authors' three families of files, and Detectron2's ViT; `blocks.0.attn.qkv.weight`;
- `timm`: the same names, encoder only;
- `huggingface_v4`: the files of the Hugging Face hub, and what `transformers` saves;
  `vit.encoder.layer.0.attention.attention.query.weight`;
- `huggingface_v5`: `transformers` from 5.0 on, in memory; `vit.layers.0.attention.q_proj.weight`;
- `d2_multitask`: our checkpoints, the authors' names below `encoder.` and `decoder.`.

All are translated by way of the authors' names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

DIALECTS = ("authors", "timm", "huggingface_v4", "huggingface_v5", "d2_multitask")

# Every MAE has this tensor, and wrappers put their prefix before it.
_AUTHORS_ANCHOR = "patch_embed.proj.weight"
_HUGGINGFACE_ANCHOR = "embeddings.patch_embeddings.projection.weight"

# What the authors' encoder and decoder consist of; anything else is a head, or of another module.
_ENCODER = re.compile(r"(cls_token|pos_embed|(patch_embed\.proj|blocks\.\d+\..+|norm)\..+)$")
_DECODER = re.compile(r"(mask_token|decoder_pos_embed|decoder_(embed|blocks\.\d+|norm|pred)\..+)$")

# Hugging Face's names of what is not a block -> the authors'.
_HUGGINGFACE_STEM = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
}
# Inside a block: the authors' module -> Hugging Face's, old and new.
_V4_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_V5_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_BLOCK = {v: k for names in (_V4_BLOCK, _V5_BLOCK) for k, v in names.items()}
_V4_QKV = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
_V5_QKV = tuple(f"attention.{name}_proj" for name in "qkv")
_QKV = {name: place for names in (_V4_QKV, _V5_QKV) for place, name in enumerate(names)}

# Blocks in Hugging Face's files. `transformers` 5 saves the decoder's under the third name.
_HUGGINGFACE_BLOCK = re.compile(
    r"(encoder\.layer|layers|decoder\.decoder_encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)$"
)


@dataclass
class TranslatedWeights:
    """An MAE's tensors under the authors' names.

    Attributes:
        weights: the authors' names -> tensors.
        sources: the authors' names -> the names in the file that they came from.
        dialect: one of `DIALECTS`.
        prefix: what stood before the names.
    """

    weights: dict[str, Tensor]
    sources: dict[str, list[str]]
    dialect: str
    prefix: str = ""

    @property
    def has_decoder(self) -> bool:
        """Whether there is a decoder."""
        return any(is_decoder_name(name) for name in self.weights)


def is_encoder_name(name: str) -> bool:
    """Whether an MAE's encoder has a tensor of this name (the authors' names)."""
    return bool(_ENCODER.match(name))


def is_decoder_name(name: str) -> bool:
    """Whether an MAE's decoder has a tensor of this name (the authors' names)."""
    return bool(_DECODER.match(name))


def complete_names(names: Iterable[str]) -> list[str]:
    """All names of an MAE with as many blocks as these names tell; a decoder only if there is one.

    Args:
        names: the authors' names.
    """
    names = list(names)
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    layers = ["patch_embed.proj", "norm"]
    complete = ["cls_token", "pos_embed"]
    stems = ["blocks"]
    if any(map(is_decoder_name, names)):
        layers += ["decoder_embed", "decoder_norm", "decoder_pred"]
        complete += ["mask_token", "decoder_pos_embed"]
        stems.append("decoder_blocks")
    for stem in stems:
        depth = max(
            (int(n.split(".")[1]) + 1 for n in names if n.startswith(f"{stem}.")), default=0
        )
        layers += [f"{stem}.{index}.{part}" for index in range(depth) for part in parts]
    return complete + [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def to_authors_names(weights: dict[str, Tensor], file: str = "file") -> TranslatedWeights | None:
    """Find an MAE among the tensors of a file, whatever their dialect.

    Args:
        weights: names -> tensors, as they stand in the file.
        file: for messages.

    Returns:
        The MAE, or ``None`` if there is none.

    Raises:
        ValueError: a block's query, key or value is missing.
    """
    prefix = _prefix(weights, _HUGGINGFACE_ANCHOR)
    if prefix is not None:
        return _from_huggingface(weights, prefix, file)
    prefix = _prefix(weights, _AUTHORS_ANCHOR)
    if prefix is None:
        return None
    ours = prefix.endswith("encoder.")
    decoder_prefix = f"{prefix.removesuffix('encoder.')}decoder." if ours else prefix
    translated = TranslatedWeights({}, {}, "d2_multitask" if ours else "authors", prefix)
    for name, value in weights.items():
        for start, known in ((prefix, is_encoder_name), (decoder_prefix, is_decoder_name)):
            if name.startswith(start) and known(name[len(start) :]):
                translated.weights[name[len(start) :]] = value
                translated.sources[name[len(start) :]] = [name]
    return translated


def _prefix(names: Iterable[str], anchor: str) -> str | None:
    """What stands before the anchor; the shortest if it is there more than once."""
    found = [
        name[: -len(anchor)]
        for name in names
        if name.endswith(anchor) and name[: -len(anchor)][-1:] in ("", ".")
    ]
    return min(found, key=len, default=None)


def _from_huggingface(
    weights: dict[str, Tensor], prefix: str, file: str
) -> TranslatedWeights | None:
    outer = prefix.removesuffix("vit.")  # the decoder is beside "vit."
    is_new = any(name.startswith(f"{prefix}layers.") for name in weights)
    dialect = "huggingface_v5" if is_new else "huggingface_v4"
    translated = TranslatedWeights({}, {}, dialect, prefix)
    parts: dict[str, list[str | None]] = {}  # name of a qkv tensor -> names of q, k, v in the file
    for name, value in weights.items():
        place = _huggingface_place(name, prefix, outer)
        if place is None:
            continue
        target, index = place
        if index is None:
            translated.weights[target], translated.sources[target] = value, [name]
        else:
            parts.setdefault(target, [None] * 3)[index] = name
    for target, names in parts.items():
        found = [name for name in names if name is not None]
        if len(found) < 3:
            raise ValueError(
                f"{file}: found {found} for {target}, expected query, key and value; the file is "
                "incomplete"
            )
        translated.weights[target] = torch.cat([weights[name] for name in found])
        translated.sources[target] = found
    return translated


def _huggingface_place(name: str, prefix: str, outer: str) -> tuple[str, int | None] | None:
    """-> the authors' name and, of a part of qkv, which; ``None`` if it is not the MAE's."""
    if name.startswith(f"{outer}decoder."):
        inner, decoder = name[len(outer) :], True
    elif name.startswith(prefix):
        inner, decoder = name[len(prefix) :], False
    else:
        return None
    block = _HUGGINGFACE_BLOCK.match(inner)
    if block:
        start = f"{'decoder_' if decoder else ''}blocks.{block[2]}."
        module, _, kind = block[3].rpartition(".")
        if module in _QKV:
            return f"{start}attn.qkv.{kind}", _QKV[module]
        return (f"{start}{_BLOCK[module]}.{kind}", None) if module in _BLOCK else None
    if decoder:
        own = inner.removeprefix("decoder.")
        return (own, None) if is_decoder_name(own) else None
    for theirs, ours in _HUGGINGFACE_STEM.items():
        if inner.startswith(theirs):
            return ours + inner[len(theirs) :], None
    return None


def from_authors_names(weights: dict[str, Tensor], dialect: str) -> dict[str, Tensor]:
    """Write an MAE in a dialect.

    Args:
        weights: the authors' names -> tensors.
        dialect: one of `DIALECTS`; "timm" leaves the decoder out.

    Returns:
        The dialect's names -> tensors.

    Raises:
        ValueError: the dialect is unknown.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"MAE weights: found dialect {dialect!r}, expected one of {DIALECTS}")
    if dialect == "authors":
        return dict(weights)
    if dialect == "timm":
        return {name: value for name, value in weights.items() if is_encoder_name(name)}
    if dialect == "d2_multitask":
        return {
            f"{'decoder' if is_decoder_name(name) else 'encoder'}.{name}": value
            for name, value in weights.items()
        }
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        result.update(_to_huggingface(name, value, dialect))
    return result


def _to_huggingface(name: str, value: Tensor, dialect: str) -> dict[str, Tensor]:
    old = dialect == "huggingface_v4"
    block = re.match(r"(decoder_)?blocks\.(\d+)\.(.+)\.(\w+)$", name)
    if block is None:
        if is_decoder_name(name):
            return {f"decoder.{name}": value}
        for theirs, ours in _HUGGINGFACE_STEM.items():
            if name.startswith(ours):
                return {f"vit.{theirs}{name[len(ours) :]}": value}
        raise ValueError(f"MAE weights: found the name {name!r}, expected the authors' names")
    if block[1]:
        start = f"decoder.decoder_layers.{block[2]}."
    else:
        start = f"vit.{'encoder.layer' if old else 'layers'}.{block[2]}."
    if block[3] == "attn.qkv":
        names = _V4_QKV if old else _V5_QKV
        parts = zip(names, value.chunk(3), strict=True)
        return {f"{start}{module}.{block[4]}": part.clone() for module, part in parts}
    modules = _V4_BLOCK if old else _V5_BLOCK
    return {f"{start}{modules[block[3]]}.{block[4]}": value}
