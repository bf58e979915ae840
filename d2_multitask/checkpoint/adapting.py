"""Modules that read the files of other projects: they translate the tensors before the matching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

METHOD = "adapt_weights"
"""A module's method ``(weights, file) -> AdaptedWeights or None`` that makes it one of these."""


@dataclass
class AdaptedWeights:
    """A file's tensors, translated for one module.

    Attributes:
        weights: names below the module -> tensors.
        sources: the same names -> the names in the file.
        resized: names below the module of tensors that were resized -> their shapes in the file.
        rest: the file's other tensors, under their names there.
        dialect: what the file's names are called.
        left_out: what of the file the module has no place for by intention, in words.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    resized: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rest: dict[str, Tensor] = field(default_factory=dict)
    dialect: str = ""
    left_out: list[str] = field(default_factory=list)


def adapt_checkpoint(
    model: nn.Module, checkpoint: dict[str, Any], file: str
) -> tuple[dict[str, Any], AdaptedWeights | None]:
    """Let the first module that has ``adapt_weights`` translate a file, if it can.

    Nothing is done to a file that fits the module as it is.

    Args:
        model: the whole model, or a part with a file of its own.
        checkpoint: from `read_checkpoint`; not changed.
        file: for messages.

    Returns:
        The checkpoint with the names of the whole model, and what was done (its names those of the
        whole model too); the checkpoint as it was, and ``None``, if nothing was.

    Raises:
        ValueError: the module refuses the file.
    """
    found = next(((n, m) for n, m in model.named_modules() if hasattr(m, METHOD)), None)
    if found is None:
        return checkpoint, None
    name, module = found
    prefix = f"{name}." if name else ""
    weights = checkpoint["model"]
    own = module.state_dict(prefix=prefix)
    below = {key for key in weights if key.startswith(prefix)}
    if own.keys() == below and all(weights[key].shape == own[key].shape for key in own):
        return checkpoint, None
    adapted = getattr(module, METHOD)(weights, file)
    if adapted is None:
        return checkpoint, None
    adapted = AdaptedWeights(
        weights={prefix + key: value for key, value in adapted.weights.items()},
        sources={prefix + key: value for key, value in adapted.sources.items()},
        resized={prefix + key: value for key, value in adapted.resized.items()},
        rest=adapted.rest,
        dialect=adapted.dialect,
        left_out=adapted.left_out,
    )
    return {**checkpoint, "model": {**adapted.rest, **adapted.weights}}, adapted
