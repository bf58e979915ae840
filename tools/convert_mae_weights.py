#!/usr/bin/env python
"""Converts MAE weights to the authors' names, Hugging Face's or ours, and to other sizes.

    python tools/convert_mae_weights.py facebook_vit-mae-base.safetensors mae_base.pth
    python tools/convert_mae_weights.py mae_pretrain_vit_huge.pth huge_p14to16.pth --patch-size 16
    python tools/convert_mae_weights.py model_final.pth mae.safetensors --to huggingface_v4

The names of the input are recognised. Training (MODEL.WEIGHTS) reads all of them as they are; this
is for other programs, and to see what a file holds. Files are read without running code from them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from tabulate import tabulate
from torch import Tensor

from d2_multitask.checkpoint import ShapeMismatch, read_checkpoint
from d2_multitask.data.whole_files import whole_file
from d2_multitask.modeling.mae.masking import patch_grid
from d2_multitask.modeling.mae.position_embedding import RESIZE_MODES, infer_grid
from d2_multitask.modeling.mae.weights import (
    MIN_ENCODER_SHARE,
    TranslatedWeights,
    describe,
    fit_to_shapes,
    is_decoder_name,
    is_encoder_name,
    rename,
    to_authors_names,
)

_KERNEL = "patch_embed.proj.weight"
LICENSE_NOTE = (
    "The MAE weights of Meta's authors are licensed CC BY-NC 4.0 (no commercial use), also where a "
    "copy of them is published under another label. What is converted or trained from them is "
    "bound by it."
)
# The dialects that `from_authors_names` writes.
WRITTEN_DIALECTS = ("authors", "huggingface_v4", "d2_multitask")
# The authors' names -> Hugging Face's of version 4, likewise, but for qkv.
_TO_HUGGINGFACE_RULES = (
    (r"^decoder_blocks\.", "decoder.decoder_layers."),
    (r"^(mask_token|decoder_)", r"decoder.\1"),
    (r"^blocks\.", "vit.encoder.layer."),
    (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^pos_embed$", "vit.embeddings.position_embeddings"),
    (r"^cls_token$", "vit.embeddings.cls_token"),
    (r"^norm\.", "vit.layernorm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help=".pth, .pkl or .safetensors")
    parser.add_argument("output", help=".pth or .safetensors")
    parser.add_argument(
        "--to", choices=WRITTEN_DIALECTS, default="authors", help="default: authors"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="make the position embedding for images of this size (default: the file's)",
    )
    parser.add_argument("--patch-size", type=int, help="pixels (default: the file's)")
    parser.add_argument(
        "--position-resize",
        choices=RESIZE_MODES,
        default="bicubic",
        help="bicubic as all public code, sincos exact (default: bicubic)",
    )
    parser.add_argument(
        "--ema", action="store_true", help="take the file's moving average, if it has one"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        report = convert_mae_file(
            args.input,
            args.output,
            args.to,
            image_size=tuple(args.image_size) if args.image_size else None,
            patch_size=args.patch_size,
            position_resize=args.position_resize,
            prefer_ema=args.ema,
        )
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"{report}\nWritten, with the names of {args.to}: {args.output}\n{LICENSE_NOTE}")
    return 0


@dataclass
class ConversionReport:
    """What became of a file's tensors; names are the authors'.

    Attributes:
        dialect: of the file.
        description: of the network in it.
        matched: names that were taken over.
        resized: those of them that got another shape.
        dropped: names in the file that belong to no MAE.
        fresh: names of a network of this size that the file lacks.
    """

    dialect: str
    description: str
    matched: list[str]
    dropped: list[str]
    fresh: list[str]
    resized: list[ShapeMismatch] = field(default_factory=list)

    def __str__(self) -> str:
        columns = (self.matched, self.resized_names, self.fresh)
        rows = [
            (part, *(sum(map(is_known, names)) for names in columns))
            for part, is_known in (("encoder", is_encoder_name), ("decoder", is_decoder_name))
        ]
        table = tabulate(rows, ("tensors", "matched", "resized", "fresh"), tablefmt="github")
        lines = [f"Names of {self.dialect}: {self.description}", table]
        lines += [f"Resized: {tensor}" for tensor in self.resized]
        if self.dropped:
            shown = ", ".join(self.dropped[:10]) + (", ..." if len(self.dropped) > 10 else "")
            lines.append(f"Dropped {len(self.dropped)}: {shown}")
        return "\n".join(lines)

    @property
    def resized_names(self) -> list[str]:
        """Names of `resized`."""
        return [tensor.name for tensor in self.resized]


def convert_mae_file(
    source: str,
    target: str,
    dialect: str,
    *,
    image_size: tuple[int, int] | None = None,
    patch_size: int | None = None,
    position_resize: str = "bicubic",
    prefer_ema: bool = False,
) -> ConversionReport:
    """Convert a weight file.

    Args:
        source: `.pth`, `.pkl` or `.safetensors`, of any dialect.
        target: `.pth` (the tensors under "model", as the authors' files) or `.safetensors`.
        dialect: of the result, one of `WRITTEN_DIALECTS`.
        image_size: (H, W) that the position embedding is made for; ``None`` = the file's.
        patch_size: side of a patch, pixels; ``None`` = the file's.
        position_resize: "bicubic" or "sincos", see `resize_position_embedding`.
        prefer_ema: take the file's moving average if it has one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no MAE, too little of one, or cannot be read; the target's
            suffix is unknown, or it is the source itself.
    """
    if not target.endswith((".pth", ".safetensors")):
        raise ValueError(f"{target}: found another ending, expected .pth or .safetensors")
    weights = read_checkpoint(source, prefer_ema=prefer_ema)["model"]
    if os.path.exists(target) and os.path.samefile(source, target):
        raise ValueError(f"{target}: is the source, expected another file")
    translated = to_authors_names(weights, source)
    if translated is None:
        raise ValueError(
            f"{source} holds no MAE: found, for example, {sorted(weights)[:5]}; expected a name "
            "that ends with patch_embed.proj.weight or patch_embeddings.projection.weight"
        )
    report = _report(translated, weights, source)
    resized = _resize(translated, image_size, patch_size, position_resize)
    report.resized = [
        ShapeMismatch(name, shape, tuple(translated.weights[name].shape))
        for name, shape in resized.items()
    ]
    _write(from_authors_names(translated.weights, dialect), target)
    return report


def from_authors_names(weights: dict[str, Tensor], dialect: str) -> dict[str, Tensor]:
    """The authors' names -> those of a dialect of `WRITTEN_DIALECTS`.

    Raises:
        ValueError: another dialect.
    """
    if dialect not in WRITTEN_DIALECTS:
        raise ValueError(f"Dialect: found {dialect!r}, expected one of {WRITTEN_DIALECTS}")
    if dialect == "authors":
        return dict(weights)
    if dialect == "d2_multitask":
        return {
            f"{'decoder' if is_decoder_name(name) else 'encoder'}.{name}": value
            for name, value in weights.items()
        }
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        name = rename(name, _TO_HUGGINGFACE_RULES)
        if ".attn.qkv." not in name:
            result[name] = value
            continue
        for part, tensor in zip(("query", "key", "value"), value.chunk(3), strict=True):
            result[name.replace("attn.qkv", f"attention.attention.{part}")] = tensor.clone()
    return result


def complete_names(names: Iterable[str]) -> list[str]:
    """All names of an MAE with the blocks of the given ones; a decoder only if they have one."""
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


def _report(
    translated: TranslatedWeights, weights: dict[str, Tensor], source: str
) -> ConversionReport:
    used = {name for names in translated.sources.values() for name in names}
    complete = complete_names(translated.weights)
    fresh = [name for name in complete if name not in translated.weights]
    missing = [name for name in fresh if is_encoder_name(name)]
    num_encoder = sum(map(is_encoder_name, complete))
    if len(missing) > (1 - MIN_ENCODER_SHARE) * num_encoder:
        raise ValueError(
            f"{source}: {len(missing)} of the {num_encoder} tensors of the encoder are missing, "
            f"for example {missing[:3]}; expected at least nine tenths"
        )
    return ConversionReport(
        dialect=translated.dialect,
        description=describe(translated),
        matched=list(translated.weights),
        dropped=[name for name in weights if name not in used],
        fresh=fresh,
    )


def _resize(
    translated: TranslatedWeights,
    image_size: tuple[int, int] | None,
    patch_size: int | None,
    position_resize: str,
) -> dict[str, tuple[int, ...]]:
    weights = translated.weights
    channels, in_channels, old_patch, _ = weights[_KERNEL].shape
    extra = int("cls_token" in weights)
    patch = patch_size or old_patch
    if "pos_embed" not in weights:
        raise ValueError("The file has no position embedding, expected pos_embed")
    h, w = infer_grid(weights["pos_embed"][0, extra:])
    grid_hw = patch_grid(image_size or (h * old_patch, w * old_patch), patch)
    names = [name for name in ("pos_embed", "decoder_pos_embed") if name in weights]
    shapes = {_KERNEL: (channels, in_channels, patch, patch)}
    for name in names:
        shapes[name] = (1, extra + grid_hw[0] * grid_hw[1], weights[name].shape[2])
    return fit_to_shapes(translated, shapes, grid_hw, position_resize)


def _write(weights: dict[str, Tensor], target: str) -> None:
    weights = {name: value.contiguous().clone() for name, value in weights.items()}
    with whole_file(Path(target)) as unfinished:
        if target.endswith(".pth"):
            torch.save({"model": weights}, unfinished)
        else:
            save_file(weights, unfinished)


if __name__ == "__main__":
    sys.exit(main())
