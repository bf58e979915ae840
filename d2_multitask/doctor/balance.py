"""How many images, objects and labels there are: empty tasks, classes without objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from detectron2.config import CfgNode

from d2_multitask.data.labels.base import Label
from d2_multitask.data.labels.instances import BoxLabel
from d2_multitask.doctor import mend
from d2_multitask.doctor.findings import ERROR, NOTE, WARNING, Finding
from d2_multitask.doctor.tables import Table
from d2_multitask.heads.build import labels_of

# COCO's largest class has 1,300 times the objects of its smallest, VOC's 15 times.
IMBALANCE, SOME_IMBALANCE = 1000, 20
FEW_OBJECTS = 10  # LVIS calls classes of fewer images rare; they are hardly learned
# Images of classes that fewer images have than this are repeated: LVIS's choice.
REPEAT = {"SAMPLER_TRAIN": "RepeatFactorTrainingSampler", "REPEAT_THRESHOLD": 0.001}


def check(cfg: CfgNode, tables: Sequence[Table], labels: Sequence[Label]) -> Iterator[Finding]:
    """All checks."""
    total = sum(len(table.records) for table in tables if table.is_train)
    for table in tables:
        number = len(table.records)
        shares = [f"{text} {n / number:.0%}" for text, n in table.num_labelled.items()]
        share = f", {number / total:.0%} of training" if table.is_train else ""
        both = "; in DATASETS.TRAIN and TEST" if table.is_train and table.is_test else ""
        text = f"{number} images{share}, {len(table.images)} objects, {table.num_empty} images "
        text += f"without objects; images with {', '.join(shares) or 'labels: not asked'}{both}"
        yield Finding(NOTE, "balance/sets", table.name, text)
    for label in labels:
        yield from _empty_task(cfg, tables, label)
    if any(isinstance(label, BoxLabel) for label in labels):
        yield from _classes(cfg, tables)


def _empty_task(cfg: CfgNode, tables: Sequence[Table], label: Label) -> Iterator[Finding]:
    tasks = [task for task in cfg.MODEL.TASKS if type(label) in labels_of(task)]
    others = [task for task in cfg.MODEL.TASKS if task not in tasks]
    for key, severity in (("TRAIN", ERROR), ("TEST", WARNING)):
        sets = [table for table in tables if (table.is_train if key == "TRAIN" else table.is_test)]
        if sets and tasks and not any(table.num_labelled[label.description] for table in sets):
            text = f"tasks {tasks} need {label.description}, found none in DATASETS.{key}; add a "
            text += "dataset with such labels, or leave the tasks out"
            where = " and ".join(table.name for table in sets)
            mended = mend.as_yaml({"MODEL": {"TASKS": others}}) if others else ""
            yield Finding(severity, "balance/empty-task", where, text, mend=mended)


def _classes(cfg: CfgNode, tables: Sequence[Table]) -> Iterator[Finding]:
    """Training sets of the same class names share their objects."""
    groups: dict[tuple[str, ...], list[Table]] = {}
    for table in tables:
        names = tuple(map(str, table.metadata.get("thing_classes") or ()))
        if table.is_train and names and len(table.images):
            groups.setdefault(names, []).append(table)
    for names, sets in groups.items():
        counts, labelled = np.zeros(len(names), dtype=np.int64), np.zeros(len(names), dtype=bool)
        for table in sets:
            # What a set does not label is no negative (`label_maps`).
            some = [r for r in table.records if "labelled_classes" in r][:1]
            labelled |= np.array(some[0]["labelled_classes"]) if some else True
            known = (table.classes >= 0) & (table.classes < len(names)) & ~table.crowds
            counts += np.bincount(table.classes[known], minlength=len(names))
        where = " and ".join(table.name for table in sets)
        empty = [names[k] for k in np.flatnonzero(labelled & (counts == 0))]
        if empty:
            text = "classes without any object: the network learns that they are nowhere"
            lines = [mend.rewriting(table.name, without_categories=empty) for table in sets]
            # The classes of a benchmark are the same for all; those of a file should be in it.
            severity = WARNING if any(lines) else NOTE
            found = (len(empty), len(names), empty, "\n".join(filter(None, lines)))
            yield Finding(severity, "balance/empty-classes", where, text, *found)
        if cfg.DATALOADER.SAMPLER_TRAIN != REPEAT["SAMPLER_TRAIN"]:
            yield from _imbalance(names, counts, where)


def _imbalance(names: Sequence[str], counts: np.ndarray, where: str) -> Iterator[Finding]:
    order = [k for k in np.argsort(counts, kind="stable") if counts[k]]
    ratio = counts[order[-1]] / counts[order[0]] if order else 1
    if ratio <= SOME_IMBALANCE:
        return
    is_much = ratio > IMBALANCE or counts[order[0]] < FEW_OBJECTS
    rare = [k for k in order if counts[k] * SOME_IMBALANCE < counts[order[-1]]]
    text = f"{names[order[-1]]} has {counts[order[-1]]} objects, {ratio:.0f} times those of the "
    text += "smallest class; rare classes are learned better if their images are repeated"
    found = [f"{names[k]}: {counts[k]} objects" for k in rare]
    mended = mend.as_yaml({"DATALOADER": REPEAT}) if is_much else ""
    severity = WARNING if is_much else NOTE
    yield Finding(severity, "balance/imbalance", where, text, len(rare), len(names), found, mended)
