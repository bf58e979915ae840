"""One annotation of a COCO-format JSON -> one annotation in Detectron2's format, checked.

The rule for each field: a value that means the same in another form is read, and counted if it is
text; what cannot be is left out or replaced, and counted. It costs that field only: a bad mask does
not cost the box, a bad box comes from a good mask. An object goes only where nothing is left of it,
or where its flag is neither true nor false. `dict_fields` reads the dicts of other loaders by the
same functions.

A number is a JSON number: text is none, nor is ``true``. An id may also be text, which stays text;
but a category's id is an integer, also one written as text, and what refers to an image may write
its id either way. A flag is 0, 1, ``true`` or ``false``; tools also write these four as text.

Coordinates: boxes and masks are continuous pixels, 0..W and 0..H. COCO's keypoints are pixel
indices, so 0.5 is added to them, as Detectron2 does.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.structures import BoxMode

from d2_multitask.data.labels.masks import MaskError, clean_segmentation, mask_area, mask_box
from d2_multitask.data.problems import Problem, shown

BAD_BOX = "object without a usable box or mask, left out"
BOX_FROM_MASK = "bad box, replaced by the box of the mask"
BOX_TURNED = "box with a width or height below 0, read from its other corner"
BOX_CLIPPED = "box reaches outside of the image, clipped"
FLAT_POLYGON = "polygon that is not in a list, read as the only one of its object"
BAD_MASK = "bad mask, left out (the box is kept)"
DEGENERATE_POLYGON = "polygon of fewer than three points, left out"
UNKNOWN_CATEGORY = "object of an unknown category, its region is ignored"
BAD_KEYPOINTS = "keypoints of an object left out (the box is kept)"
KEYPOINT_OUTSIDE = "keypoint outside of the image, taken as not labelled"
KEYPOINT_NOT_FINITE = "keypoint with NaN or an infinite number, taken as not labelled"
BAD_VISIBILITY = "keypoint whose visibility is not 0, 1 or 2, taken as not labelled"

SAME_ANNOTATION_ID = "annotation id used twice, both objects are kept"
SAME_ANNOTATION_TWICE = "object listed twice, one entry left out"
BAD_FLAG = "object whose flag is neither true nor false, left out"
ID_AS_TEXT = "category id written as text, read as a number"
FLAG_AS_TEXT = "flag written as text, read as 0 or 1"
AREA_REPLACED = "area that cannot be, replaced by that of the mask or box"

# COCO's own boxes leave the image by rounding; that is no problem of the data.
_BOX_TOLERANCE = 1.0
# "area" is the mask's (COCO) or the box's (many tools): it may differ from both, within reason. A
# mask may fill little of its box, but where there is no mask to compare with, it fills some of it.
_MAX_AREA_RATIO = 4.0
_MIN_FILLED = 0.02
_MAX_COORDINATE = 1e18  # anything larger is as good as infinite

_MAX_INTEGER = 2**63 - 1
_INTEGER_TEXT = re.compile(r"0|-?[1-9][0-9]{0,18}")
_FLAG_TEXTS = {"0": False, "1": True, "false": False, "true": True}

Add = Callable[..., None]
"""Counts a problem of the object at hand: kind, details, and the place in the object."""


@dataclass
class ObjectReader:
    """Reads the annotations of one JSON.

    Attributes:
        contiguous_ids: the JSON's category id -> 0, 1, 2, ...
        num_keypoints: keypoints of an object; 0 if the categories name none.
        problems: what was wrong so far.
    """

    contiguous_ids: Mapping[int, int]
    num_keypoints: int
    problems: list[Problem] = field(default_factory=list)
    _first_of: dict[Any, Mapping[str, Any]] = field(default_factory=dict, init=False)

    def is_listed_twice(self, annotation: Mapping[str, Any], where: str) -> bool:
        """Whether an annotation is one before it; that and another one of its id are counted."""
        annotation_id = as_id(annotation.get("id"))  # training needs none
        known = self._first_of.setdefault(annotation_id, annotation)
        if annotation_id is None or known is annotation:
            return False
        kind = SAME_ANNOTATION_TWICE if known == annotation else SAME_ANNOTATION_ID
        details = f"field 'id': found {shown(annotation_id)} again"
        self.problems.append(Problem(kind, where, details))
        return kind == SAME_ANNOTATION_TWICE

    def read(
        self, annotation: Mapping[str, Any], height: int, width: int, where: str
    ) -> dict[str, Any] | None:
        """Read one annotation.

        Args:
            annotation: the JSON's object; it is not changed.
            height: of its image.
            width: of its image.
            where: names the file and the annotation, for messages.

        Returns:
            Detectron2's dict with ``bbox`` (x, y, w, h), ``bbox_mode``, ``category_id``,
            ``iscrowd`` and ``area`` (pixels, the mask's if the file says it, which COCO's metric
            wants); ``segmentation`` and ``keypoints`` if labelled and usable. ``None`` if not even
            a box is left, or if a flag is neither true nor false.
        """

        def add(kind: str, details: str, place: str = "") -> None:
            self.problems.append(Problem(kind, where + place, details))

        # "ignore" is an old name for regions that are neither object nor background.
        flags = [read_flag(annotation.get(field), field, add) for field in ("iscrowd", "ignore")]
        if None in flags:
            return None
        crowd = any(flags)
        segmentation = _read_mask(annotation.get("segmentation"), height, width, add)
        box = _read_box(annotation.get("bbox"), segmentation, height, width, add)
        if box is None:
            return None
        given = annotation.get("category_id")
        category = self.contiguous_ids.get(as_category_id(given))
        if category is None:
            # Something is there, but not known what: neither an object nor background.
            expected = f"expected one of {list(self.contiguous_ids)}"
            add(UNKNOWN_CATEGORY, f"field 'category_id': found {shown(given)}, {expected}")
            category, crowd = 0, True
        elif isinstance(given, str):
            add(ID_AS_TEXT, f"field 'category_id': found {shown(given)}")
        result: dict[str, Any] = {
            "bbox": box,
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": category,
            "iscrowd": int(crowd),
            "area": box[2] * box[3],
        }
        if annotation.get("area") is not None:
            result["area"] = read_area(annotation["area"], box, lambda: segmentation, add)
        if segmentation is not None:
            result["segmentation"] = segmentation
        keypoints = annotation.get("keypoints")
        if keypoints not in (None, []):
            keypoints = read_keypoints(keypoints, add, self.num_keypoints, (height, width), 0.5)
            if keypoints is not None:
                result["keypoints"] = keypoints
        return result


def read_flag(value: Any, field: str, add: Add) -> bool | None:
    """A flag of an object; ``None``, and counted, if it is neither true nor false."""
    if value is None:
        return False
    flag = as_flag(value)
    if flag is None or isinstance(value, str):
        kind = BAD_FLAG if flag is None else FLAG_AS_TEXT
        add(kind, f"field '{field}': found {shown(value)}, expected 0 or 1")
    return flag


def read_area(area: Any, box: Sequence[float], find_mask: Callable[[], Any], add: Add) -> float:
    """The given area of an object unless it cannot be, then its mask's, or else its box's.

    Args:
        area: as given, any value; pixels.
        box: (x, y, w, h), pixels.
        find_mask: gives a checked mask (see `clean_segmentation`), or ``None``.
        add: counts an area that is replaced.
    """
    number, of_box = as_number(area), box[2] * box[3]
    # A mask is not larger than its box, so that this is within reason for every mask.
    if number is not None and of_box <= _MAX_AREA_RATIO * number <= _MAX_AREA_RATIO * of_box:
        return number
    segmentation = find_mask()
    of_mask = mask_area(segmentation) if segmentation is not None else 0.0
    lowest = of_mask / _MAX_AREA_RATIO if of_mask else _MIN_FILLED * of_box
    if number is not None and lowest <= number <= _MAX_AREA_RATIO * max(of_box, of_mask):
        return number
    result = of_mask or of_box
    add(AREA_REPLACED, f"field 'area': found {shown(area)}, expected about {result:g} pixels")
    return result


def read_keypoints(
    keypoints: Any,
    add: Add,
    num_keypoints: int | None = None,
    image_size: tuple[int, int] | None = None,
    shift: float = 0.0,
) -> list[float] | None:
    """Keypoints as x, y, visibility of each; those that cannot be used are zeros, and counted.

    Args:
        keypoints: as given, flat or (K, 3).
        add: counts problems.
        num_keypoints: K; ``None`` takes any number.
        image_size: (h, w) that they lie in, once shifted; ``None`` = anywhere.
        shift: added to x and y of labelled ones.

    Returns:
        ``None``, and counted, if they are not K times three numbers.
    """
    flat = flat_keypoints(keypoints)
    is_numbers = isinstance(flat, list) and set(map(type, flat)) <= {int, float}
    expected = len(flat) // 3 if is_numbers and num_keypoints is None else num_keypoints
    if not is_numbers or len(flat) != 3 * expected:
        found = f"{len(flat)} numbers" if is_numbers else shown(keypoints)
        count = "x, y and visibility of each" if expected is None else f"{3 * expected} numbers"
        reason = "; the category names no keypoints" if num_keypoints == 0 else ""
        add(BAD_KEYPOINTS, f"field 'keypoints': found {found}, expected {count}{reason}")
        return None
    low, right, bottom = -_MAX_COORDINATE, _MAX_COORDINATE, _MAX_COORDINATE
    if image_size is not None:
        low, right, bottom = -shift, image_size[1] - shift, image_size[0] - shift
    result: list[float] = []
    for x, y, v in zip(flat[0::3], flat[1::3], flat[2::3], strict=True):
        if v == 0:
            result += (0.0, 0.0, 0.0)
        elif v in (1, 2) and low <= x <= right and low <= y <= bottom:
            result += (x + shift, y + shift, float(v))
        else:
            kind = BAD_VISIBILITY
            if v in (1, 2):
                is_finite = as_number(x) is not None and as_number(y) is not None
                kind = KEYPOINT_OUTSIDE if is_finite else KEYPOINT_NOT_FINITE
            found = f"found ({shown(x)}, {shown(y)}), visibility {shown(v)}"
            size = "" if image_size is None else ", the image is {1}x{0}".format(*image_size)
            add(kind, f"field 'keypoints': {found}{size}", f", keypoint {len(result) // 3 + 1}")
            result += (0.0, 0.0, 0.0)
    return result


def flat_keypoints(keypoints: Any) -> Any:
    """[[x, y, v], ...] as [x, y, v, ...]; anything else as it is."""
    if not isinstance(keypoints, list) or not keypoints or not isinstance(keypoints[0], list):
        return keypoints
    if any(not isinstance(point, list) or len(point) != 3 for point in keypoints):
        return keypoints
    return [value for point in keypoints for value in point]


def _box_error(box: Any, height: int, width: int) -> str | None:
    if not isinstance(box, list | tuple) or len(box) != 4:
        return f"found {shown(box)}, expected four numbers (x, y, w, h)"
    for number in box:
        if type(number) not in (int, float) or not -_MAX_COORDINATE < number < _MAX_COORDINATE:
            return f"found {shown(box)}, expected four finite numbers (x, y, w, h)"
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return f"found {list(box)} (x, y, w, h), expected a width and height above 0"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return f"found {list(box)} (x, y, w, h), outside of the {width}x{height} image"
    return None


def _read_mask(segmentation: Any, height: int, width: int, add: Add) -> Any:
    if segmentation in (None, [], {}):  # how tools write "no mask"
        return None
    if isinstance(segmentation, list) and type(segmentation[0]) in (int, float):
        add(FLAT_POLYGON, "field 'segmentation': found numbers, expected lists")
        segmentation = [segmentation]
    try:
        cleaned = clean_segmentation(segmentation, height, width)
    except MaskError as error:
        add(BAD_MASK, f"field 'segmentation': {error}")
        return None
    if isinstance(cleaned, list) and len(cleaned) < len(segmentation):
        found = f"{len(segmentation) - len(cleaned)} of {len(segmentation)} polygons"
        add(DEGENERATE_POLYGON, f"field 'segmentation': found {found}")
    return cleaned


def _read_box(box: Any, segmentation: Any, height: int, width: int, add: Add) -> list[float] | None:
    error = _box_error(box, height, width)
    if error is not None:
        if segmentation is not None:
            kind, other = BOX_FROM_MASK, mask_box(segmentation, height, width)
        else:
            kind, other = BOX_TURNED, _turned(box)
        if _box_error(other, height, width) is not None:
            kind, other = BAD_BOX, None
        add(kind, f"field 'bbox': {error}")
        if other is None:
            return None
        box = other
    x, y, w, h = box
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if max(x1 - x, y1 - y, x + w - x2, y + h - y2) > _BOX_TOLERANCE:
        add(
            BOX_CLIPPED,
            f"field 'bbox': found {list(box)} (x, y, w, h), the image is {width}x{height}",
        )
    return [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]


def _turned(box: Any) -> list[float] | None:
    """A box from another corner, which labelme2coco writes with sides below 0."""
    numbers = list(map(as_number, box)) if isinstance(box, list | tuple) else []
    if len(numbers) != 4 or None in numbers:
        return None
    x, y, w, h = numbers
    return [min(x, x + w), min(y, y + h), abs(w), abs(h)]


def as_number(value: Any) -> float | None:
    """A finite number as float; ``None`` for anything else."""
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    return number if math.isfinite(number) else None


def as_integer(value: Any) -> int | None:
    """An integer of 64 bits, also one written as 1.0; ``None`` for anything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -_MAX_INTEGER <= value <= _MAX_INTEGER else None


def as_id(value: Any) -> int | str | None:
    """An id: an integer as in ``as_integer``, or text; ``None`` for anything else."""
    if type(value) is str:
        return value if is_text(value) else None
    return as_integer(value)


def as_category_id(value: Any) -> int | None:
    """An integer as in ``as_integer``, or the text of one; ``None`` for anything else."""
    if type(value) is str:
        value = other_form(value)
    return as_integer(value)


def other_form(value: int | str | None) -> int | str | None:
    """1 for "1" and "1" for 1; ``None`` for all else, also for "01" or "1.0"."""
    if type(value) is int:
        return str(value)
    is_plain = type(value) is str and _INTEGER_TEXT.fullmatch(value)
    return int(value) if is_plain else None


def as_flag(value: Any) -> bool | None:
    """A flag, also as text; a field that is missing (``None``) is ``False``.

    Returns:
        ``None`` if it is neither true nor false.
    """
    if value is None or (type(value) in (int, bool) and value in (0, 1)):
        return bool(value)
    if isinstance(value, str):
        return _FLAG_TEXTS.get(value.strip().lower())
    number = as_integer(value)
    return bool(number) if number in (0, 1) else None


def as_file_name(value: Any) -> str | None:
    """A text that can name a file; ``None`` for others, such as "", "/" and half a surrogate."""
    if not isinstance(value, str) or os.path.basename(value) in ("", ".") or "\0" in value:
        return None
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return None
    return value


def is_text(value: Any) -> bool:
    """Whether a value is a text that can be printed and written; half a surrogate cannot."""
    return isinstance(value, str) and value == value.encode(errors="ignore").decode()
