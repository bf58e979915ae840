"""The doctor looks at the data of a config before hours of training; see docs/check.md.

One file per subject: `boxes`, `joints`, `images`, `maps`, `balance`. Each yields `Finding`; the
labels come as arrays (`tables`). `mend` writes the lines that mend what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.coco_annotations import FLAG_AS_TEXT, ID_AS_TEXT
from d2_multitask.data.datasets.coco_json import SIZE_OF_FILE
from d2_multitask.data.datasets.shards import ShardSet
from d2_multitask.data.io import EXIF_LEFT_OUT
from d2_multitask.data.labels.base import Label
from d2_multitask.data.loader import EMPTY_IMAGE, NO_LABEL, label_needs
from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.doctor import balance, boxes, images, joints, maps
from d2_multitask.doctor.findings import ERROR, NOTE, WARNING, Finding, sentence
from d2_multitask.doctor.tables import Table

# Nothing is lost by these.
_HARMLESS = (EMPTY_IMAGE, NO_LABEL, SIZE_OF_FILE, EXIF_LEFT_OUT, ID_AS_TEXT, FLAG_AS_TEXT)


def examine(cfg: CfgNode, stride: int = 4) -> list[Finding]:
    """Everything that the doctor finds in the datasets of a config, subject by subject.

    Args:
        cfg: the config; its datasets are registered.
        stride: pixels of the network's input for a cell of its finest features.
    """
    labels, findings, tables = _labels(cfg), [], []
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        if isinstance(DatasetCatalog.data.get(name), ShardSet):
            continue  # no labels, and more images than one disk holds
        roles = name in cfg.DATASETS.TRAIN, name in cfg.DATASETS.TEST
        try:
            tables.append(Table(name, load_dataset(name), labels, *roles))
        except Exception as error:  # also of a function in DatasetCatalog
            findings.append(Finding(ERROR, "start/dataset", name, sentence(error)))
    subjects: list[Callable[[], Iterator[Finding]]] = [
        lambda: balance.check(cfg, tables, labels),
        lambda: boxes.check(cfg, tables, labels, stride),
        lambda: joints.check(cfg, tables, labels),
        lambda: maps.check(cfg, tables, labels),
        lambda: images.check(tables),
    ]
    np.random.seed(0)  # noqa: NPY002 (Detectron2 draws random resizing from it)
    for subject in subjects:
        try:
            findings += subject()
        except Exception as error:  # the other subjects are still worth their time
            text = f"a check ended with {sentence(error)}; the rest is reported"
            findings.append(Finding(WARNING, "start/check-failed", "all datasets", text))
    return findings


def counted() -> list[Finding]:
    """What the loaders counted since the process began (``DATA_REPORT``)."""
    findings = []
    for kind, problems in DATA_REPORT.problems.items():
        severity, number = NOTE if kind in _HARMLESS else WARNING, DATA_REPORT.counts[kind]
        found = [f"{problem.where}: {problem.details}" for problem in problems]
        findings.append(Finding(severity, "data/counted", f"{number} x", kind, number, 0, found))
    return findings


def _labels(cfg: CfgNode) -> list[Label]:
    try:
        kinds = dict.fromkeys(kind for *_, kind in label_needs(cfg))
        return [kind.from_config(cfg) for kind in kinds]
    except ValueError:  # of the config, which building the network says
        return []
