"""Maps of class ids: ids and names that do not fit, in a sample of the maps."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from d2_multitask.data.io import ImageReadError, image_size, read_label_map
from d2_multitask.data.labels.base import UNKNOWN_IDS, Label, MapLabel, spread
from d2_multitask.data.problems import Problem, ProblemReport
from d2_multitask.doctor import mend
from d2_multitask.doctor.findings import ERROR, NOTE, WARNING, Finding
from d2_multitask.doctor.tables import Table

MAX_MAPS = 100  # of a set; 5 ms each
# With fewer pixels than this share an unknown value is noise, not a wrong table of ids.
MANY_PIXELS = 0.01


class _Report(ProblemReport):
    """Counts without logging: the doctor says it."""

    def add(self, kind: str, where: str, details: str) -> None:
        """See `ProblemReport`."""
        self.merge([Problem(kind, where, details)])


class _Sample:
    """Some maps of a set: pixels of each value in the files, and of each class."""

    def __init__(self, table: Table, label: MapLabel) -> None:
        records = [r for r in table.records if r.get(f"{label.key}_file_name")]
        self.table, self.label, self.report = table, label, _Report()
        self.values, self.classes = Counter[int](), Counter[int]()
        self.records = list(spread(records, MAX_MAPS))
        for record in self.records:
            with contextlib.suppress(ImageReadError):  # the image; of the map `read` counts it
                height, width = image_size(record["file_name"])
                ids = label.read({**record, "height": height, "width": width}, self.report)
                if ids is not None:
                    self.classes.update(_counted(ids))
                    self.values.update(_counted(read_label_map(record[f"{label.key}_file_name"])))

    def unknown(self) -> list[int]:
        """Values in the files that mean nothing."""
        record, label = self.records[0], self.label
        known = record.get(f"{label.key}_ids") or range(label.num_classes)
        ignored = np.ravel(record.get(f"{label.key}_ignore", ())).tolist()
        return sorted(self.values.keys() - {*known, *ignored, label.ignore_value})


def check(cfg: CfgNode, tables: Sequence[Table], labels: Sequence[Label]) -> Iterator[Finding]:
    """All maps of the tasks' labels that are files of ids."""
    for table in tables:
        for label in labels:
            if isinstance(label, MapLabel) and label.values_are_ids:
                sample = _Sample(table, label)
                if sample.records:
                    yield from _problems(cfg, sample)
                    yield from _names(cfg, sample)


def _counted(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _problems(cfg: CfgNode, sample: _Sample) -> Iterator[Finding]:
    """What reading the maps counted."""
    name, label, counts = sample.table.name, sample.label, sample.report.counts
    unknown, number = sample.unknown(), len(sample.records)
    pixels = sum(sample.values[value] for value in unknown)
    is_much = pixels > MANY_PIXELS * sum(sample.values.values())
    for kind, problems in sample.report.problems.items():
        is_ids = kind == UNKNOWN_IDS.format(label.description)
        severity = ERROR if (is_ids and is_much) or counts[kind] == number else WARNING
        found = [f"{problem.where}: {problem.details}" for problem in problems]
        check, mended = "maps/unusable", ""
        if is_ids:
            check, mended = "maps/ids", _mended_ids(cfg, sample, unknown)
        yield Finding(severity, check, name, kind, counts[kind], number, found, mended)


def _names(cfg: CfgNode, sample: _Sample) -> Iterator[Finding]:
    """Classes that no map shows."""
    table, label, number = sample.table, sample.label, len(sample.records)
    names = list(table.metadata.get(label.names_key) or ()) if label.names_key else []
    shown = sample.classes.keys() - {label.ignore_value}
    missing = [f"{i} ({name})" for i, name in enumerate(names) if i not in shown]
    has_unknown_ids = UNKNOWN_IDS.format(label.description) in sample.report.counts
    if has_unknown_ids or not sample.values or not missing:
        return
    is_whole = number == len(table.records) and table.is_train
    severity, check, mended = WARNING if is_whole else NOTE, "maps/never-seen", ""
    text = f"{label.description}: classes that no pixel has in {number} maps; are the names in the "
    text += "order of the ids?"
    is_told = any(f"{label.key}_{key}" in sample.records[0] for key in ("ids", "ignore"))
    if len(sample.values) == label.num_classes and not is_told:
        severity, check, mended = ERROR, "maps/ids", _mended_ids(cfg, sample, [])
        text = f"{label.description}: found the values {sorted(sample.values)}, expected the ids "
        text += f"0..{label.num_classes - 1}; {label.ignore_value} means no label"
    counts = len(missing), len(names)
    yield Finding(severity, check, table.name, text, *counts, missing, mended)


def _mended_ids(cfg: CfgNode, sample: _Sample, unknown: Sequence[int]) -> str:
    """``IDS`` if there are as many values as classes, otherwise ``IGNORE`` for the unknown ones."""
    label, known = sample.label, sample.records[0].get(f"{sample.label.key}_ids") or {}
    prefix, every = label.key.upper(), sorted(sample.values)
    if len(every) == label.num_classes + 1 and label.ignore_value in every:
        every.remove(label.ignore_value)
    keys: dict[str, Any] = {f"{prefix}_IDS": {value: i for i, value in enumerate(every)}}
    if len(every) != label.num_classes or known:
        no_label = {label.ignore_value} & sample.values.keys() - known.keys()
        keys = {f"{prefix}_IGNORE": sorted({*unknown, *no_label})}
    return mend.entry(cfg, sample.table.name, **keys)
