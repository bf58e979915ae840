"""What happened to a file's tensors: under which names they come, and which were loaded."""

from __future__ import annotations

import collections
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from tabulate import tabulate
from torch import Tensor

_MAX_EXAMPLES = 10


class ShapeMismatch(NamedTuple):
    """A tensor with another shape in the file than in the model, which keeps its own."""

    name: str
    file_shape: tuple[int, ...]
    model_shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.file_shape} in the file, {self.model_shape} in the model"


@dataclass
class AdaptedWeights:
    """A file's tensors under the names of a model or, from ``adapt_weights``, of a module.

    Attributes:
        weights: new names -> tensors.
        sources: new names -> the names in the file.
        resized: new names of tensors that were resized -> their shapes in the file.
        rest: the file's other tensors, under their names there.
        dropped: names in the file -> why they are left out.
        prefix, dialect, left_out, notes: see `LoadReport`.
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


@dataclass
class LoadReport:
    """Which tensors of a model were loaded from a weight file.

    `matched`, `fresh` and the names of `mismatched` together are the whole state of the model.

    Attributes:
        matched: Names in the model that were loaded. The statistics of a frozen batch norm whose
            file has only scale and shift (Caffe2) are among them: mean 0 and variance 1.
        fresh: Names in the model that the file does not have; they keep their initial values.
        unused: Names in the file that the model does not have.
        mismatched: Tensors that both have, with different shapes.
        file: The weight file.
        prefix: What was put before the file's names to get the model's.
        reasons: Names in `unused` -> the reason, where it is known.
        notes: What else was changed, one sentence each.
        ema: The values are the file's exponential moving average.
        resized: Tensors in `matched` whose values were resized to the model's shape.
        dialect: What the file's names are called, if they were translated.
        left_out: What of `unused` is unused by design, in words.
    """

    matched: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    mismatched: list[ShapeMismatch] = field(default_factory=list)
    file: str = ""
    prefix: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ema: bool = False
    resized: list[ShapeMismatch] = field(default_factory=list)
    dialect: str = ""
    left_out: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """Names in the model whose values do not come from the file."""
        fresh = [name for name in self.fresh if not name.endswith("num_batches_tracked")]
        return [*fresh, *(mismatch.name for mismatch in self.mismatched)]

    def __str__(self) -> str:
        columns = {
            "matched": self.matched,
            "left fresh": self.fresh,
            "other shape": [mismatch.name for mismatch in self.mismatched],
            "unused in file": self.unused,
        }
        title = f"Weights from {self.file}"
        if self.prefix:
            title += f", its names placed below '{self.prefix.rstrip('.')}'"
        if self.ema:
            title += ", exponential moving average"
        if self.dialect:
            title += f", names of {self.dialect}"
        return "\n".join(
            [
                f"{title} (number of tensors):",
                _table(columns),
                *_examples("Resized to the model's shape:", self.resized),
                *_examples("Not loaded because of another shape:", self.mismatched),
                *self.notes,
                *_by_reason(self.reasons),
                *([f"Unused on purpose: {'; '.join(self.left_out)}"] if self.left_out else []),
            ]
        )


def _examples(title: str, tensors: list[ShapeMismatch]) -> list[str]:
    lines = [f"  {tensor}" for tensor in tensors[:_MAX_EXAMPLES]]
    if len(tensors) > _MAX_EXAMPLES:
        lines.append(f"  and {len(tensors) - _MAX_EXAMPLES} more")
    return [title, *lines] if lines else []


def _by_reason(reasons: dict[str, str]) -> list[str]:
    """One line per reason, with its names."""
    names: dict[str, list[str]] = collections.defaultdict(list)
    for name, reason in reasons.items():
        names[reason].append(name)
    return [f"Dropped {', '.join(found)}: {reason}" for reason, found in names.items()]


def _table(columns: dict[str, list[str]]) -> str:
    """Counts by module, in the order in which the modules first appear."""
    counts = {title: collections.Counter(map(_module, names)) for title, names in columns.items()}
    modules = dict.fromkeys(module for counter in counts.values() for module in counter)
    rows = [[module, *(counter[module] for counter in counts.values())] for module in modules]
    rows.append(["total", *(len(names) for names in columns.values())])
    rows = [[row[0], *(count or "" for count in row[1:])] for row in rows]
    return tabulate(rows, headers=["module", *counts], tablefmt="github")


def _module(name: str) -> str:
    """Row of the table: `backbone.fpn_lateral3.weight` -> `backbone.fpn_lateral*`."""
    parts = name.split(".")[:-1][:2] or [name.split("_")[0]]
    return ".".join([*parts[:-1], re.sub(r"\d+$", "*", parts[-1])])
