"""The numbers that a table shows: which of the many in ``results.json``, and under which name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from d2_multitask.evaluation.results import MAIN_METRICS

# (dataset, group, metric); the dataset is empty where only one was evaluated on.
ResultKey = tuple[str, str, str]


@dataclass(frozen=True)
class Column:
    """One metric of the table.

    Attributes:
        label: its heading.
        group: its entry in ``results.json``, such as ``bbox``.
        metric: its name there, such as ``AP``.
        task: the task that it measures; networks with this task must have a value. Empty = known
            of no task.
        dataset: the dataset, empty where only one was evaluated on.
    """

    label: str
    group: str
    metric: str
    task: str = ""
    dataset: str = ""

    @property
    def key(self) -> ResultKey:
        """Where the number is in `flat_results`."""
        return self.dataset, self.group, self.metric

    @property
    def name(self) -> str:
        """``bbox/AP``, with the dataset before it if there is one."""
        return "/".join(part for part in self.key if part)


CLASS_IOU = "IoU-"

# The columns of the MCN paper's Table 1, and those of COCO that go with them.
TABLE_1 = (
    Column("person IoU", "sem_seg", "IoU-person", "seg"),
    Column("box AP", "bbox", "AP", "det"),
    Column("box AP50", "bbox", "AP50", "det"),
    Column("keypoint AP", "keypoints", "AP", "pose"),
    Column("keypoint AP50", "keypoints", "AP50", "pose"),
)
# What other networks and datasets give; shown where it occurs.
FURTHER = (
    Column("mIoU", "sem_seg", "mIoU", "seg"),
    Column("mask AP", "segm", "AP", "mask"),
    Column("mask AP50", "segm", "AP50", "mask"),
    Column("parts mIoU", "part_seg", "mIoU", "parts"),
    Column("boundary ODS", "boundary", "ODS-F", "boundary"),
    # At the labelled pixels: networks without boundaries have it too. Where a network finds the
    # boundaries itself, its accuracy there depends on which it finds.
    Column("orientation at labels", "occlusion", "orientation-accuracy-at-labels", "occlusion"),
    Column("orientation", "occlusion", "orientation-accuracy"),
    Column("class mAP", "image_labels", "mAP", "classification"),
)
KNOWN = {(column.group, column.metric): column for column in (*TABLE_1, *FURTHER)}


def flat_results(results: Mapping[str, Any]) -> dict[ResultKey, float | None]:
    """``results.json`` -> a value for each key; ``None`` for what could not be computed.

    Args:
        results: ``{group: {metric: value}}``, or one such dict for each dataset.
    """
    flat: dict[ResultKey, float | None] = {}
    for name, inner in results.items():
        for metric, value in inner.items():
            if isinstance(value, Mapping):
                flat.update({(name, metric, key): number for key, number in value.items()})
            else:
                flat["", name, metric] = value
    return flat


def named_columns(names: Iterable[str]) -> list[Column]:
    """The columns of names such as ``bbox/AP`` or ``my_data_set/bbox/AP``.

    Raises:
        ValueError: a name of another form.
    """
    columns = []
    for name in names:
        parts = name.split("/")
        if len(parts) not in (2, 3) or "" in parts:
            raise ValueError(
                f"--metrics: found {name!r}, expected the names of results.json, such as bbox/AP"
            )
        columns.append(_column(*["", *parts][-3:]))
    return columns


def choose_columns(
    tasks: Iterable[Sequence[str]], results: Iterable[Mapping[ResultKey, Any]]
) -> list[Column]:
    """The columns of a study: Table 1's as far as its tasks go, then what else was measured.

    Args:
        tasks: of each row.
        results: of each finished run, from `flat_results`.
    """
    asked = {task for row in tasks for task in row}
    keys = list(dict.fromkeys(key for result in results for key in result))
    datasets = list(dict.fromkeys(key[0] for key in keys)) or [""]
    columns = []
    for dataset in datasets:
        found = {(group, metric): None for name, group, metric in keys if name == dataset}
        chosen = [
            column
            for column in TABLE_1
            if ((column.group, column.metric) in found and not _one_of_many(column.key[1:], found))
            or (column.task in asked and not any(group == column.group for group, _ in found))
        ]
        groups = {column.group for column in chosen}
        rest = [key for key in found if key[0] not in groups]
        columns += [_column(dataset, column.group, column.metric) for column in chosen]
        columns += [_column(dataset, *key) for key in _main(rest)]
    return columns


def _one_of_many(key: tuple[str, str], keys: Collection[tuple[str, str]]) -> bool:
    """Whether a metric is the IoU of one class, which says little where there are many."""
    group, metric = key
    classes = sum(g == group and m.startswith(CLASS_IOU) for g, m in keys)
    return metric.startswith(CLASS_IOU) and classes > 2


def _main(keys: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The main metrics of each group; its first if none of them has a known name."""
    chosen: list[tuple[str, str]] = []
    for group in dict.fromkeys(group for group, _ in keys):
        own = [key for key in keys if key[0] == group]
        main = [key for key in own if key in KNOWN or key[1] in MAIN_METRICS]
        chosen += [key for key in main if not _one_of_many(key, own)] or own[:1]
    return chosen


def _column(dataset: str, group: str, metric: str) -> Column:
    known = KNOWN.get((group, metric), Column(f"{group} {metric}", group, metric))
    label = f"{dataset}: {known.label}" if dataset else known.label
    return Column(label, group, metric, known.task, dataset)
