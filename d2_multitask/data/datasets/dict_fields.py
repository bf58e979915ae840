"""The objects of Detectron2's dicts, read alike whoever made the dicts."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode

from d2_multitask.data.datasets.coco_annotations import (
    AREA_REPLACED,
    BAD_BOX,
    BAD_FLAG,
    BAD_JOINTS,
    BAD_MASK,
    BAD_VISIBILITY,
    FLAG_AS_TEXT,
    JOINT_NOT_FINITE,
    flat_joints,
    plausible_area,
)
from d2_multitask.data.datasets.json_values import (
    as_file_name,
    as_flag,
    as_id,
    as_integer,
    as_number,
    shown,
)
from d2_multitask.data.labels.masks import MaskError, clean_segmentation
from d2_multitask.data.problems import DATA_REPORT, ProblemReport

_IMAGE_FIELDS = {"image_id": as_id, "height": as_integer, "width": as_integer}


def with_plain_fields(
    dataset_dicts: Sequence[dict[str, Any]],
    report: ProblemReport = DATA_REPORT,
    name: str = "",
) -> list[dict[str, Any]]:
    """Read the fields of every object as those of a COCO file.

    Python takes the text "0" for true, so that an object would be a crowd without a word. Flags as
    text are counted; an object whose flag is neither true nor false is left out, and counted.
    A class that is no whole number stays as it is, for the checks that know the classes. An area
    that cannot be, beside a box (x, y, w, h), is replaced, and counted.

    Boxes, joints and polygons may be arrays or tensors, joints also (K, 3); they become lists.
    An object whose box is no finite numbers, or has no size, is left out, and counted; a box that
    is missing or of another length stays, for `d2_multitask.data.loader.check_boxes`.

    Args:
        dataset_dicts: Detectron2's dicts; they are not changed.
        report: where problems are counted.
        name: of the dataset, for messages.

    Returns:
        The same dicts; copies where something was read.

    Raises:
        ValueError: an image's name, id or size is none, ``annotations`` is no list of dicts, or a
            ``bbox_mode`` none that can be used.
    """
    return [
        _plain_record(_plain_image(record, f"Dataset {name!r}: entry {index}"), report)
        for index, record in enumerate(dataset_dicts)
    ]


def _plain_image(record: Any, where: str) -> dict[str, Any]:
    """The record with its id and size as plain values."""
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: found {shown(record)}, expected a dict")
    name = record.get("file_name", None if "annotations" in record else "unnamed")
    if not isinstance(name, os.PathLike) and as_file_name(name) is None:
        raise ValueError(f"{where}: field 'file_name': found {shown(name)}, expected a file name")
    changed = {}
    for field, read in _IMAGE_FIELDS.items():
        value = record.get(field)
        if value is None or type(value) is int:
            continue
        changed[field] = read(_unwrapped(value))
        if changed[field] is None:
            expected = "a number or text" if read is as_id else "a number of pixels"
            raise ValueError(
                f"{where}: {name}: field '{field}': found {shown(value)}, expected {expected}"
            )
    return {**record, **changed} if changed else record


def _plain_record(record: dict[str, Any], report: ProblemReport) -> dict[str, Any]:
    annotations = record.get("annotations", ())
    where = str(record.get("file_name"))
    if annotations is None:  # as if it were not there
        return {key: value for key, value in record.items() if key != "annotations"}
    if not isinstance(annotations, list | tuple) or not all(
        isinstance(a, dict) for a in annotations
    ):
        raise ValueError(
            f"{where}: field 'annotations': found {shown(annotations)}, expected a list of dicts"
        )
    if all(map(_is_plain, annotations)):  # nearly all are
        return record
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
    if type(annotation.get("bbox_mode")) is not BoxMode or not _is_plain_box(annotation):
        return False
    if not _are_plain_joints(annotation.get("keypoints", [])):
        return False
    mask = annotation.get("segmentation", [])
    if not (type(mask) is list and set(map(type, mask)) <= {list}) and not (
        type(mask) is dict and type(mask.get("counts")) in (str, bytes)
    ):
        return False
    return "area" not in annotation or _area(annotation) == annotation["area"]


def _is_plain_box(annotation: Mapping[str, Any]) -> bool:
    box, mode = annotation.get("bbox"), annotation.get("bbox_mode")
    if type(box) is not list or len(box) != 4 or not set(map(type, box)) <= {int, float}:
        return False
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        return False
    low_x, low_y = (box[0], box[1]) if mode == BoxMode.XYXY_ABS else (0, 0)
    return box[2] > low_x and box[3] > low_y and _are_finite(box)


def _are_finite(numbers: Sequence[float]) -> bool:
    try:
        return math.isfinite(sum(numbers))
    except OverflowError:  # an integer of more than 308 digits
        return False


def _are_plain_joints(joints: Any) -> bool:
    if type(joints) is not list or len(joints) % 3 or not set(map(type, joints)) <= {int, float}:
        return False
    return set(joints[2::3]) <= {0, 1, 2} and _are_finite(joints)


def _area(annotation: Mapping[str, Any]) -> Any:
    """The area, or what is in its place if it cannot be."""
    area, box = annotation["area"], annotation.get("bbox")
    if annotation.get("bbox_mode") != BoxMode.XYWH_ABS or type(box) is not list or len(box) != 4:
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
    masks = ("segmentation",)  # whose arrays have another meaning than their lists
    result = {k: v if k in masks else _unwrapped(v) for k, v in annotation.items()}
    if not _read_flag(result, where, report) or not _read_box(result, where, report):
        return None
    _read_mask(result, where, report)
    _read_joints(result, where, report)
    if "area" in result:
        given, result["area"] = result["area"], _area(result)
        if result["area"] != given:
            found = f"found {shown(given)}, expected about {shown(result['area'])} pixels"
            report.add(AREA_REPLACED, where, f"field 'area': {found}")
    number = as_integer(result.get("category_id"))
    if number is not None:
        result["category_id"] = number
    return result


def _read_flag(result: dict[str, Any], where: str, report: ProblemReport) -> bool:
    """Each of these changes ``result`` in place; ``False`` if the object is to be left out."""
    if "iscrowd" not in result:
        return True
    value = result["iscrowd"]
    flag = as_flag(value)
    if flag is None or isinstance(value, str):
        kind = BAD_FLAG if flag is None else FLAG_AS_TEXT
        report.add(kind, where, f"field 'iscrowd': found {shown(value)}, expected 0 or 1")
    result["iscrowd"] = int(flag or 0)
    return flag is not None


def _read_box(result: dict[str, Any], where: str, report: ProblemReport) -> bool:
    box, mode = result.get("bbox"), result.get("bbox_mode")
    if mode is not None:
        number = as_integer(int(mode) if isinstance(mode, BoxMode) else mode)
        if number not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
            raise ValueError(
                f"{where}: field 'bbox_mode': found {shown(mode)}, expected BoxMode.XYXY_ABS or "
                "BoxMode.XYWH_ABS of detectron2.structures"
            )
        result["bbox_mode"] = BoxMode(number)
    if box is None or mode is None or (isinstance(box, list | tuple) and len(box) != 4):
        return True
    numbers = [as_number(v) for v in box] if isinstance(box, list | tuple) else [None]
    if None not in numbers:
        result["bbox"] = numbers
    if None in numbers or not _is_plain_box(result):
        expected = "four finite numbers, with a width and height above 0"
        details = f"field 'bbox': found {shown(box)} ({shown(mode)}), expected {expected}"
        report.add(BAD_BOX, where, details)
        return False
    return True


def _read_mask(result: dict[str, Any], where: str, report: ProblemReport) -> None:
    if "segmentation" not in result:
        return
    mask = result.pop("segmentation")
    if isinstance(mask, dict):
        result["segmentation"] = {key: _unwrapped(value) for key, value in mask.items()}
    elif isinstance(mask, list | tuple):
        result["segmentation"] = [_plain_polygon(polygon) for polygon in mask]
    elif mask is not None:
        found = f"an array of {tuple(mask.shape)}" if hasattr(mask, "shape") else shown(mask)
        details = f"field 'segmentation': found {found}, expected a list of polygons or an RLE"
        report.add(BAD_MASK, where, details)


def _plain_polygon(polygon: Any) -> Any:
    """As a list; arrays may also be (n, 2), whose values in turn are x and y either way."""
    is_array = isinstance(polygon, np.ndarray | torch.Tensor)
    return polygon.reshape(-1).tolist() if is_array else _unwrapped(polygon)


def _read_joints(result: dict[str, Any], where: str, report: ProblemReport) -> None:
    joints = flat_joints(result.get("keypoints", []))
    if _are_plain_joints(joints):
        if "keypoints" in result:
            result["keypoints"] = joints
        return
    del result["keypoints"]
    if joints is None:
        return
    numbers = [_number(v) for v in joints] if isinstance(joints, list | tuple) else [None]
    if None in numbers or len(numbers) % 3:
        details = f"field 'keypoints': found {shown(joints)}, expected x, y and visibility of each"
        report.add(BAD_JOINTS, where, details)
        return
    for start in range(0, len(numbers), 3):
        joint = numbers[start : start + 3]
        if _are_plain_joints(joint):
            continue
        numbers[start : start + 3] = [0.0, 0.0, 0.0]
        if joint[2] != 0:
            kind = JOINT_NOT_FINITE if joint[2] in (1, 2) else BAD_VISIBILITY
            found = f"field 'keypoints': found {joint}"
            report.add(kind, f"{where}, joint {start // 3 + 1}", found)
    result["keypoints"] = numbers


def _number(value: Any) -> float | None:
    """As float, also NaN; ``None`` for what is no number."""
    value = _unwrapped(value)
    return float(value) if type(value) is float else as_number(value)


def _unwrapped(value: Any) -> Any:
    """NumPy's and PyTorch's numbers as Python's, arrays of them as lists."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_unwrapped(v) for v in value]
    return value
