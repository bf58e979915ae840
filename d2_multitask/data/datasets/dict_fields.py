"""Flags, class numbers and areas of Detectron2's dicts, read alike whoever made the dicts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from d2_multitask.data.datasets.coco_annotations import (
    AREA_REPLACED,
    BAD_FLAG,
    FLAG_AS_TEXT,
    plausible_area,
)
from d2_multitask.data.datasets.json_values import as_flag, as_integer, shown
from d2_multitask.data.labels.masks import MaskError, clean_segmentation
from d2_multitask.data.problems import DATA_REPORT, ProblemReport


def with_plain_fields(
    dataset_dicts: Sequence[dict[str, Any]], report: ProblemReport = DATA_REPORT
) -> list[dict[str, Any]]:
    """Read ``iscrowd``, ``category_id`` and ``area`` of every object as those of a COCO file.

    Python takes the text "0" for true, so that an object would be a crowd without a word. Flags as
    text are counted; an object whose flag is neither true nor false is left out, and counted.
    A class that is no whole number stays as it is, for the checks that know the classes. An area
    that cannot be, beside a box (x, y, w, h), is replaced, and counted.

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
    if (
        type(flag) is not int
        or flag not in (0, 1)
        or type(annotation.get("category_id")) is not int
    ):
        return False
    return "area" not in annotation or _area(annotation) == annotation["area"]


def _area(annotation: Mapping[str, Any]) -> Any:
    """The area, or what is in its place if it cannot be."""
    area, box = annotation["area"], annotation.get("bbox")
    if annotation.get("bbox_mode") != BoxMode.XYWH_ABS or box is None or len(box) != 4:
        return area
    found = plausible_area(area, box, None)
    if found == area or not annotation.get("segmentation"):
        return found
    segmentation, longest = annotation["segmentation"], int(max(box)) + 1
    with contextlib.suppress(MaskError, KeyError, TypeError, ValueError):
        size = segmentation["size"] if isinstance(segmentation, dict) else (longest, longest)
        return plausible_area(area, box, clean_segmentation(segmentation, *size))
    return found


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
    if "area" in annotation:
        result["area"] = area = _area(annotation)
        if area != annotation["area"]:
            found = f"found {shown(annotation['area'])}, expected about {area:g} pixels"
            report.add(AREA_REPLACED, where, f"field 'area': {found}")
    number = as_integer(_unwrapped(annotation.get("category_id")))
    if number is not None:
        result["category_id"] = number
    return result


def _unwrapped(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else value
