"""Flags and class numbers of Detectron2's dicts as plain integers, whoever made the dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from d2_multitask.data.coco_objects import BAD_FLAG, FLAG_AS_TEXT
from d2_multitask.data.json_values import as_flag, as_integer, shown
from d2_multitask.data.report import DATA_REPORT, ProblemReport


def with_plain_fields(
    dataset_dicts: Sequence[dict[str, Any]], report: ProblemReport = DATA_REPORT
) -> list[dict[str, Any]]:
    """Read ``iscrowd`` and ``category_id`` of every object by the rules of `json_values`.

    Python takes the text "0" for true, so that an object would be a crowd without a word. Flags as
    text are counted; an object whose flag is neither true nor false is left out, and counted.
    A class that is no whole number stays as it is, for the checks that know the classes.

    Args:
        dataset_dicts: Detectron2's dicts; they are not changed.
        report: where flags are counted.

    Returns:
        The same dicts; copies where something was read.
    """
    return [_plain_record(record, report) for record in dataset_dicts]


def _plain_record(record: dict[str, Any], report: ProblemReport) -> dict[str, Any]:
    annotations = record.get("annotations") or ()
    if all(map(_is_plain, annotations)):  # nearly all are
        return record
    where = str(record.get("file_name"))
    plain = [_plain(a, f"{where}, object {i + 1}", report) for i, a in enumerate(annotations)]
    return {**record, "annotations": [annotation for annotation in plain if annotation is not None]}


def _is_plain(annotation: Mapping[str, Any]) -> bool:
    flag = annotation.get("iscrowd", 0)
    return type(flag) is int and flag in (0, 1) and type(annotation.get("category_id")) is int


def _plain(
    annotation: Mapping[str, Any], where: str, report: ProblemReport
) -> dict[str, Any] | None:
    result = dict(annotation)
    if "iscrowd" in annotation:
        value = _unwrapped(annotation["iscrowd"])
        flag = as_flag(value)
        if flag is None or isinstance(value, str):
            kind = BAD_FLAG if flag is None else FLAG_AS_TEXT
            report.add(kind, where, f"field 'iscrowd': found {shown(value)}, expected 0 or 1")
        if flag is None:
            return None
        result["iscrowd"] = int(flag)
    number = as_integer(_unwrapped(annotation.get("category_id")))
    if number is not None:
        result["category_id"] = number
    return result


def _unwrapped(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else value
