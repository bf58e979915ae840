"""``torch.compile`` for the parts of a network that are pure tensor arithmetic."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch._dynamo import config as dynamo_config

from d2_multitask.heads.base import Branch


def compile_network(model: nn.Module, **options: Any) -> list[str]:
    """Compile the backbone (with its neck) and the branches of the heads, in place.

    Decoding stays as it is: its shapes depend on what is found. Parameter names do not change.
    The first call of each input size takes long.

    Args:
        model: changed; has a ``backbone``.
        options: for ``torch.compile``, e.g. ``backend``.

    Returns:
        Names of the compiled parts.
    """
    parts = {name: part for name, part in model.named_modules() if is_compiled_part(name, part)}
    # All branches are one piece of code to the compiler, which by default stops at eight versions
    # of it; each branch needs one for every kind of input (batch of one, of several, sizes).
    limit = "recompile_limit" if hasattr(dynamo_config, "recompile_limit") else "cache_size_limit"
    setattr(dynamo_config, limit, max(getattr(dynamo_config, limit), 8 * len(parts)))
    for part in parts.values():
        part.compile(**options)
    return list(parts)


def is_compiled_part(name: str, part: nn.Module) -> bool:
    """Whether it is one of the parts that :func:`compile_network` compiles."""
    return name == "backbone" or isinstance(part, Branch)
