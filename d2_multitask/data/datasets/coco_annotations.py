"""One annotation of a COCO-format JSON -> one annotation in Detectron2's format, checked.

What is wrong with one part of an object costs that part only: a bad mask does not cost the box, a
bad box comes from a good mask, bad joints cost only the joints. Every loss is a ``Problem``.

Coordinates: boxes and masks are continuous pixels, 0..W and 0..H. COCO's joints are pixel indices,
so 0.5 is added to them, as Detectron2 does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from d2_multitask.data.datasets.json_values import as_category_id, as_flag, as_number, shown
from d2_multitask.data.labels.masks import MaskError, clean_segmentation, mask_area, mask_box
from d2_multitask.data.problems import Problem

BAD_BOX = "object without a usable box or mask, left out"
BOX_FROM_MASK = "bad box, replaced by the box of the mask"
BOX_TURNED = "box with a width or height below 0, read as drawn from its other corner"
BOX_CLIPPED = "box reaches outside of the image, clipped"
FLAT_POLYGON = "polygon that is not in a list, read as the only one of its object"
BAD_MASK = "bad mask, left out (the box is kept)"
DEGENERATE_POLYGON = "polygon of fewer than three points, left out"
UNKNOWN_CATEGORY = "object of an unknown category, its region is ignored"
BAD_JOINTS = "joints of an object left out (the box is kept)"
JOINT_OUTSIDE = "joint outside of the image, taken as not labelled"
JOINT_NOT_FINITE = "joint with NaN or an infinite number, taken as not labelled"
BAD_VISIBILITY = "joint whose visibility is not 0, 1 or 2, taken as not labelled"

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


def plausible_area(area: Any, box: Sequence[float], segmentation: Any) -> float:
    """The given area of an object unless it cannot be, then its mask's, or else its box's.

    Args:
        area: as given, any value; pixels.
        box: (x, y, w, h), pixels.
        segmentation: a checked mask (see `clean_segmentation`), or ``None``.
    """
    number, of_box = as_number(area), box[2] * box[3]
    # A mask is not larger than its box, so that this is within reason for every mask.
    if number is not None and of_box <= _MAX_AREA_RATIO * number <= _MAX_AREA_RATIO * of_box:
        return number
    of_mask = mask_area(segmentation) if segmentation is not None else 0.0
    lowest = of_mask / _MAX_AREA_RATIO if of_mask else _MIN_FILLED * of_box
    if number is not None and lowest <= number <= _MAX_AREA_RATIO * max(of_box, of_mask):
        return number
    return of_mask or of_box


@dataclass
class ObjectReader:
    """Reads the annotations of one JSON.

    Attributes:
        contiguous_ids: the JSON's category id -> 0, 1, 2, ...
        num_keypoints: joints of an object; 0 if the categories name none.
        problems: what was wrong so far.
    """

    contiguous_ids: Mapping[int, int]
    num_keypoints: int
    problems: list[Problem] = field(default_factory=list)

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
        # "ignore" is an old name for regions that are neither object nor background.
        flags = [self._read_flag(annotation, field, where) for field in ("iscrowd", "ignore")]
        if None in flags:
            return None
        crowd = any(flags)
        segmentation = self._read_mask(annotation.get("segmentation"), height, width, where)
        box = self._read_box(annotation.get("bbox"), segmentation, height, width, where)
        if box is None:
            return None
        category = self._read_category(annotation.get("category_id"), where)
        if category is None:
            # Something is there, but not known what: neither an object nor background.
            self._add(
                UNKNOWN_CATEGORY,
                where,
                f"field 'category_id': found {shown(annotation.get('category_id'))}, "
                f"expected one of {list(self.contiguous_ids)}",
            )
            category, crowd = 0, True
        result: dict[str, Any] = {
            "bbox": box,
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": category,
            "iscrowd": int(crowd),
            "area": self._read_area(annotation.get("area"), box, segmentation, where),
        }
        if segmentation is not None:
            result["segmentation"] = segmentation
        keypoints = self._read_keypoints(annotation.get("keypoints"), height, width, where)
        if keypoints is not None:
            result["keypoints"] = keypoints
        return result

    def _read_category(self, value: Any, where: str) -> int | None:
        category = self.contiguous_ids.get(as_category_id(value))
        if category is not None and isinstance(value, str):
            self._add(ID_AS_TEXT, where, f"field 'category_id': found {shown(value)}")
        return category

    def _read_flag(self, annotation: Mapping[str, Any], field: str, where: str) -> bool | None:
        value = annotation.get(field)
        if value is None:
            return False
        flag = as_flag(value)
        if flag is None or isinstance(value, str):
            kind = BAD_FLAG if flag is None else FLAG_AS_TEXT
            self._add(kind, where, f"field '{field}': found {shown(value)}, expected 0 or 1")
        return flag

    def _read_area(self, area: Any, box: list[float], segmentation: Any, where: str) -> float:
        """The file's area, of the mask or box, or else the box's; pixels."""
        if area is None:
            return box[2] * box[3]
        result = plausible_area(area, box, segmentation)
        if result != as_number(area):
            details = f"field 'area': found {shown(area)}, expected about {result:g} pixels"
            self._add(AREA_REPLACED, where, details)
        return result

    def _read_mask(self, segmentation: Any, height: int, width: int, where: str) -> Any:
        if segmentation in (None, [], {}):  # how tools write "no mask"
            return None
        if isinstance(segmentation, list) and type(segmentation[0]) in (int, float):
            self._add(FLAT_POLYGON, where, "field 'segmentation': found numbers, expected lists")
            segmentation = [segmentation]
        try:
            cleaned = clean_segmentation(segmentation, height, width)
        except MaskError as error:
            self._add(BAD_MASK, where, f"field 'segmentation': {error}")
            return None
        if isinstance(cleaned, list) and len(cleaned) < len(segmentation):
            found = len(segmentation) - len(cleaned)
            details = f"field 'segmentation': found {found} of {len(segmentation)} polygons"
            self._add(DEGENERATE_POLYGON, where, details)
        return cleaned

    def _read_box(
        self, box: Any, segmentation: Any, height: int, width: int, where: str
    ) -> list[float] | None:
        error = _box_error(box, height, width)
        if error is not None and segmentation is None:
            turned = _turned(box)
            if turned is not None and _box_error(turned, height, width) is None:
                self._add(BOX_TURNED, where, f"field 'bbox': {error}")
                box, error = turned, None
        if error is not None:
            kind, from_mask = BAD_BOX, None
            if segmentation is not None:
                from_mask = mask_box(segmentation, height, width)
            if from_mask is not None and _box_error(from_mask, height, width) is None:
                kind, box = BOX_FROM_MASK, from_mask
            self._add(kind, where, f"field 'bbox': {error}")
            if kind == BAD_BOX:
                return None
        x, y, w, h = box
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if (
            x1 - x > _BOX_TOLERANCE
            or y1 - y > _BOX_TOLERANCE
            or (x + w - x2 > _BOX_TOLERANCE or y + h - y2 > _BOX_TOLERANCE)
        ):
            details = f"field 'bbox': found {list(box)} (x, y, w, h), the image is {width}x{height}"
            self._add(BOX_CLIPPED, where, details)
        return [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]

    def _read_keypoints(
        self, keypoints: Any, height: int, width: int, where: str
    ) -> list[float] | None:
        if keypoints in (None, []):
            return None
        expected = 3 * self.num_keypoints
        keypoints = flat_joints(keypoints)
        plain = _plain_keypoints(keypoints, expected, height, width)
        if plain is not None:
            return plain
        try:
            # NumPy would take text and true for numbers.
            if any(isinstance(value, str | bool) for value in keypoints):
                raise TypeError
            points = np.array(keypoints, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            details = f"field 'keypoints': found {shown(keypoints)}, expected a list of numbers"
            self._add(BAD_JOINTS, where, details)
            return None
        if points.shape != (expected,):
            reason = "" if expected else "; the category names no joints"
            found = f"{points.size} numbers" if points.ndim == 1 else f"lists of {points.shape}"
            details = f"field 'keypoints': found {found}, expected {expected} numbers{reason}"
            self._add(BAD_JOINTS, where, details)
            return None
        points = points.reshape(-1, 3)  # (K, 3) x, y, visibility
        if points.any():
            self._check_points(points, height, width, where)
        return points.reshape(-1).tolist()

    def _check_points(self, points: np.ndarray, height: int, width: int, where: str) -> None:
        """Shift (K, 3) labelled joints to continuous coordinates, in place; clear the others."""
        visibility = points[:, 2].copy()
        labelled = (visibility == 1) | (visibility == 2)
        points[:, :2] += 0.5
        # NaN and infinite numbers are not inside either.
        inside = ((points[:, :2] >= 0) & (points[:, :2] <= (width, height))).all(axis=1)
        good = labelled & inside
        for joint in np.flatnonzero(~good & (visibility != 0)):
            x, y = points[joint, :2] - 0.5
            kind = BAD_VISIBILITY
            if labelled[joint]:
                kind = JOINT_OUTSIDE if np.isfinite(points[joint]).all() else JOINT_NOT_FINITE
            found = f"found ({x:g}, {y:g}), visibility {visibility[joint]:g}"
            details = f"field 'keypoints': {found}, the image is {width}x{height}"
            self._add(kind, f"{where}, joint {joint + 1}", details)
        points[~good] = 0

    def _add(self, kind: str, where: str, details: str) -> None:
        self.problems.append(Problem(kind, where, details))


def flat_joints(keypoints: Any) -> Any:
    """[[x, y, v], ...] as [x, y, v, ...]; anything else as it is."""
    if not isinstance(keypoints, list) or not keypoints or not isinstance(keypoints[0], list):
        return keypoints
    if any(not isinstance(joint, list) or len(joint) != 3 for joint in keypoints):
        return keypoints
    return [value for joint in keypoints for value in joint]


def _plain_keypoints(keypoints: Any, expected: int, height: int, width: int) -> list[float] | None:
    """Joints without any fault in continuous coordinates; ``None`` if a closer look is needed.

    Nearly all are: for one object, this is several times faster than arrays.
    """
    if not isinstance(keypoints, list) or len(keypoints) != expected:
        return None
    if not set(map(type, keypoints)) <= {int, float}:
        return None
    shifted: list[float] = []
    for x, y, v in zip(keypoints[0::3], keypoints[1::3], keypoints[2::3], strict=True):
        if v == 0:
            shifted += (0.0, 0.0, 0.0)
        elif v in (1, 2) and -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5:
            shifted += (x + 0.5, y + 0.5, float(v))
        else:
            return None
    return shifted


def _turned(box: Any) -> list[float] | None:
    """A box that was drawn from another corner, which labelme2coco writes with sides below 0."""
    if not isinstance(box, list | tuple) or len(box) != 4:
        return None
    x, y, w, h = map(as_number, box)
    if None in (x, y, w, h) or not (w < 0 or h < 0):
        return None
    return [min(x, x + w), min(y, y + h), abs(w), abs(h)]


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
