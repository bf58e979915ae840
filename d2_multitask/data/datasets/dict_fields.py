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
    BAD_BOX,
    BAD_MASK,
    Add,
    as_file_name,
    as_id,
    as_integer,
    flat_keypoints,
    read_area,
    read_flag,
    read_keypoints,
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

    Boxes, keypoints (also (K, 3)) and polygons may be arrays or tensors; they become lists.
    An object whose box is no finite numbers, or has no size, is left out, and counted; a box that
    is missing or of another length stays, for `BoxLabel.check`.

    The dicts are not changed.

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
    """Whether `_plain` would change nothing."""
    flag, mask = annotation.get("iscrowd", 0), annotation.get("segmentation", [])
    mode, box = annotation.get("bbox_mode"), annotation.get("bbox")
    return (
        (type(flag) is int and flag in (0, 1))
        and type(annotation.get("category_id")) is int
        and (type(mode) is BoxMode and _is_plain_box(box, mode))
        and _are_plain_keypoints(annotation.get("keypoints", []))
        and (
            set(map(type, mask)) <= {list}
            if type(mask) is list
            else type(mask) is dict and type(mask.get("counts")) in (str, bytes)
        )
        and ("area" not in annotation or _area(annotation, _ignore) == annotation["area"])
    )


def _ignore(*_: str) -> None:
    pass


def _is_plain_box(box: Any, mode: BoxMode) -> bool:
    if type(box) is not list or len(box) != 4 or not set(map(type, box)) <= {int, float}:
        return False
    x, y, right, bottom = box
    if mode is BoxMode.XYWH_ABS:  # these two are width and height
        x = y = 0
    elif mode is not BoxMode.XYXY_ABS:
        return False
    return right > x and bottom > y and _are_finite(box)


def _are_finite(numbers: Sequence[float]) -> bool:
    try:
        return math.isfinite(sum(numbers))
    except OverflowError:  # an integer of more than 308 digits
        return False


def _are_plain_keypoints(values: Any) -> bool:
    if type(values) is not list or len(values) % 3 or not set(map(type, values)) <= {int, float}:
        return False
    return set(values[2::3]) <= {0, 1, 2} and _are_finite(values)


def _area(annotation: Mapping[str, Any], add: Add) -> Any:
    """The area, or what is in its place if it cannot be; any beside boxes of other modes."""
    area, box, mask = annotation["area"], annotation.get("bbox"), annotation.get("segmentation")
    if (
        annotation.get("bbox_mode") is not BoxMode.XYWH_ABS
        or type(box) is not list
        or len(box) != 4
    ):
        return area

    def find_mask() -> Any:
        longest = int(max(box)) + 1
        with contextlib.suppress(MaskError, KeyError, TypeError, ValueError):
            size = mask["size"] if isinstance(mask, dict) else (longest, longest)
            return clean_segmentation(mask, *size) if mask else None
        return None

    return read_area(area, box, find_mask, add)


def _plain(
    annotation: Mapping[str, Any], where: str, report: ProblemReport
) -> dict[str, Any] | None:
    """The annotation with plain values; ``None``, and counted, if it is to be left out."""

    def add(kind: str, details: str, place: str = "") -> None:
        report.add(kind, where + place, details)

    result = {k: v if k == "segmentation" else _unwrapped(v) for k, v in annotation.items()}
    if "iscrowd" in result:
        flag = read_flag(result["iscrowd"], "iscrowd", add)
        if flag is None:
            return None
        result["iscrowd"] = int(flag)
    if not _read_box(result, where, add):
        return None
    if "segmentation" in result:
        _read_mask(result, add)
    if "keypoints" in result:
        keypoints = flat_keypoints(result.pop("keypoints"))
        if not _are_plain_keypoints(keypoints) and keypoints is not None:
            keypoints = read_keypoints(keypoints, add)
        if keypoints is not None:
            result["keypoints"] = keypoints
    if "area" in result:
        result["area"] = _area(result, add)
    number = as_integer(result.get("category_id"))
    if number is not None:
        result["category_id"] = number
    return result


def _read_box(result: dict[str, Any], where: str, add: Add) -> bool:
    """Make mode and box plain, in place; ``False`` if the object is to be left out."""
    box, mode = result.get("bbox"), result.get("bbox_mode")
    if mode is not None:
        number = as_integer(int(mode) if isinstance(mode, BoxMode) else mode)
        if number not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
            raise ValueError(
                f"{where}: field 'bbox_mode': found {shown(mode)}, expected BoxMode.XYXY_ABS or "
                "BoxMode.XYWH_ABS of detectron2.structures"
            )
        result["bbox_mode"] = BoxMode(number)
    if box is None or mode is None or (isinstance(box, list) and len(box) != 4):
        return True
    if not _is_plain_box(box, result["bbox_mode"]):
        expected = "four finite numbers, with a width and height above 0"
        add(BAD_BOX, f"field 'bbox': found {shown(box)} ({shown(mode)}), expected {expected}")
        return False
    return True


def _read_mask(result: dict[str, Any], add: Add) -> None:
    mask = result.pop("segmentation")
    if isinstance(mask, dict):
        result["segmentation"] = {key: _unwrapped(value) for key, value in mask.items()}
    elif isinstance(mask, list | tuple):
        result["segmentation"] = [_plain_polygon(polygon) for polygon in mask]
    elif mask is not None:
        found = f"an array of {tuple(mask.shape)}" if hasattr(mask, "shape") else shown(mask)
        add(BAD_MASK, f"field 'segmentation': found {found}, expected a list of polygons or an RLE")


def _plain_polygon(polygon: Any) -> Any:
    """As a list; arrays may also be (n, 2), whose values in turn are x and y either way."""
    is_array = isinstance(polygon, np.ndarray | torch.Tensor)
    return polygon.reshape(-1).tolist() if is_array else _unwrapped(polygon)


def _unwrapped(value: Any) -> Any:
    """NumPy's and PyTorch's numbers as Python's, arrays of them as lists."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_unwrapped(v) for v in value]
    return value
