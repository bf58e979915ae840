"""What the doctor says: findings, on a terminal and as JSON for CI."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from d2_multitask.data import whole_files

ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")
"""Error: a training would stop, or learn or measure the wrong thing. Warning: look at it before
training. Note: good to know."""

MAX_EXAMPLES = 3  # enough to look up; more would fill the screen


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found in one dataset, or pair of datasets.

    Attributes:
        severity: one of `SEVERITIES`.
        check: what was checked, such as ``joints/pairs``, as in docs/check.md.
        where: name of the dataset, or of several.
        text: what was found and what was expected.
        count: how many objects, images or classes it concerns.
        total: of how many; 0 if it concerns the whole set.
        examples: the first ones, with file and object.
        mend: YAML lines for the config, or lines for the shell; "" if only a person can tell.
    """

    severity: str
    check: str
    where: str
    text: str
    count: int = 0
    total: int = 0
    examples: Sequence[str] = ()
    mend: str = ""

    def __str__(self) -> str:
        number = f" ({self.count} of {self.total})" if self.total else ""
        lines = [f"{self.severity}: {self.check}: {self.where}{number}: {self.text}"]
        lines += [f"    {example}" for example in self.examples[:MAX_EXAMPLES]]
        lines += ["  To mend it:", textwrap.indent(self.mend.rstrip(), "    ")] * bool(self.mend)
        return "\n".join(lines)


def sentence(error: Exception) -> str:
    """What is to be said of an error: those of this package and of files are sentences."""
    is_sentence = isinstance(error, ValueError | OSError)
    return str(error) if is_sentence else f"{type(error).__name__}: {error}"


def summary(findings: Sequence[Finding]) -> str:
    """Such as "2 errors, 1 warning, 4 notes"."""
    counts = Counter(finding.severity for finding in findings)
    return ", ".join(f"{counts[s]} {s}{'s' * (counts[s] != 1)}" for s in SEVERITIES)


def write_json(path: str | Path, findings: Sequence[Finding]) -> None:
    """``{"counts": {severity: number}, "findings": [fields of `Finding`, ...]}``."""
    counts = dict.fromkeys(SEVERITIES, 0) | Counter(finding.severity for finding in findings)
    content = {"counts": counts, "findings": [asdict(finding) for finding in findings]}
    whole_files.write_json(Path(path), content, indent=2)
