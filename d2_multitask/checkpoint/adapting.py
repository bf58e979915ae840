"""Weights under names that a file does not have; modules that translate other projects' files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class AdaptedWeights:
    """A file's tensors under the names of a model or, from ``adapt_weights``, of a module.

    Attributes:
        weights: new names -> tensors.
        sources: new names -> the names in the file.
        resized: new names of tensors that were resized -> their shapes in the file.
        rest: the file's other tensors, under their names there.
        dropped: names in the file -> why they are left out.
        prefix: what was put before the names.
        dialect: what the file's names are called.
        left_out: what of the file the module does not have by design, in words.
        notes: what else was changed, one sentence each.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    resized: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rest: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    dialect: str = ""
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def adapt_checkpoint(
    model: nn.Module, checkpoint: dict[str, Any], file: str
) -> tuple[dict[str, Any], AdaptedWeights | None]:
    """Let the first module with a method ``adapt_weights`` translate a file, if it can.

    The method is ``(weights, file) -> AdaptedWeights | None``. It is not called for a file that
    fits the module as it is.

    Args:
        model: the whole model, or a part with a file of its own.
        checkpoint: from `read_checkpoint`; not changed.
        file: for messages.

    Returns:
        The checkpoint with the names of the whole model, and the translation, with these names too;
        or the checkpoint as it was, and ``None``.

    Raises:
        ValueError: the module refuses the file.
    """
    modules = model.named_modules()
    found = next(((n, m) for n, m in modules if hasattr(m, "adapt_weights")), None)
    if found is None:
        return checkpoint, None
    name, module = found
    prefix = f"{name}." if name else ""
    weights = checkpoint["model"]
    own = module.state_dict(prefix=prefix)
    below = {key for key in weights if key.startswith(prefix)}
    if own.keys() == below and all(weights[key].shape == own[key].shape for key in own):
        return checkpoint, None
    adapted = module.adapt_weights(weights, file)
    if adapted is None:
        return checkpoint, None
    adapted = dataclasses.replace(
        adapted,
        weights={prefix + key: value for key, value in adapted.weights.items()},
        sources={prefix + key: value for key, value in adapted.sources.items()},
        resized={prefix + key: value for key, value in adapted.resized.items()},
    )
    return {**checkpoint, "model": {**adapted.rest, **adapted.weights}}, adapted
