"""MAE weight files from one dialect to another, and to other patch and image sizes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch
from tabulate import tabulate
from torch import Tensor

from d2_multitask.checkpoint import read_checkpoint
from d2_multitask.checkpoint.mae_names import (
    DIALECTS,
    TranslatedWeights,
    complete_names,
    from_authors_names,
    is_decoder_name,
    is_encoder_name,
    to_authors_names,
)
from d2_multitask.checkpoint.report import ShapeMismatch
from d2_multitask.modeling.mae.patches import patch_grid
from d2_multitask.modeling.mae.position_embedding import infer_grid
from d2_multitask.modeling.mae.weights import MIN_ENCODER_SHARE, describe, fit_to_shapes

_KERNEL = "patch_embed.proj.weight"


@dataclass
class ConversionReport:
    """What became of a file's tensors; names are the authors'.

    Attributes:
        dialect: of the file.
        description: of the network in it.
        matched: taken over.
        resized: those of them that got another shape.
        dropped: names in the file, as they stand there, that belong to no MAE.
        fresh: what a network of this size has and the file lacks.
    """

    dialect: str
    description: str
    matched: list[str] = field(default_factory=list)
    resized: list[ShapeMismatch] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            (
                part,
                *(
                    sum(map(known, names))
                    for names in (self.matched, self.resized_names, self.fresh)
                ),
            )
            for part, known in (("encoder", is_encoder_name), ("decoder", is_decoder_name))
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
        dialect: of the result, one of `d2_multitask.checkpoint.mae_names.DIALECTS`.
        image_size: (H, W) that positions are wanted for; ``None`` = the file's.
        patch_size: side of a patch, pixels; ``None`` = the file's.
        position_resize: "bicubic" or "sincos", see `resize_position_embedding`.
        prefer_ema: take the file's moving average if it has one.

    Returns:
        The report.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no MAE, too little of one, or cannot be read; the target's kind
            is unknown, or is the source itself.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"Dialect: found {dialect!r}, expected one of {DIALECTS}")
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
    return fit_to_shapes(translated, shapes, dict.fromkeys(names, grid_hw), position_resize)


def _write(weights: dict[str, Tensor], target: str) -> None:
    folder = os.path.dirname(os.path.abspath(target))
    os.makedirs(folder, exist_ok=True)
    weights = {name: value.contiguous().clone() for name, value in weights.items()}
    if target.endswith(".pth"):
        torch.save({"model": weights}, target)
        return
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ImportError(
            f"{target} needs the package safetensors: "
            "python -m pip install 'd2_multitask[safetensors]'"
        ) from error
    save_file(weights, target)
