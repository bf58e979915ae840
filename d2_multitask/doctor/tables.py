"""The labels of a dataset as arrays, so that each check is a few lines of NumPy.

Letters: I images, N objects, P people with labelled keypoints, K keypoints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from d2_multitask.data.labels.base import Label
from d2_multitask.data.labels.masks import MaskError, clean_segmentation

Objects = Sequence[Mapping[str, Any]]


class Table:
    """A dataset: its registered ``name``, the dicts of `load_dataset`, the labels of the tasks, and
    whether it is in ``DATASETS.TRAIN`` and in ``TEST``.

    Attributes:
        metadata: its entry of `MetadataCatalog`.
        records: the dicts without their objects.
        num_labelled: description of a label -> images that have it.
        sizes: (I, 2) height and width in pixels; 0 where the dict does not say it.
        num_empty: images that are labelled as having no object.
        images: (N,) the image of each object, an index into ``records``.
        classes: (N,) class; -1 where it is no number.
        crowds: (N,) bool.
        boxes: (N, 4) x1, y1, x2, y2 in pixels; NaN where there is no box.
        mask_boxes: (N, 4) the same around the mask; NaN where there is no mask.
        bad_masks: object -> why its mask cannot be used.
        people: (P,) the object of each row of ``joints``.
        joints: (P, K, 3) x, y in pixels and visibility.
        joint_names: of the keypoints; empty if there are none.
    """

    def __init__(
        self, name: str, records: Objects, labels: Sequence[Label], is_train: bool, is_test: bool
    ) -> None:
        self.name, self.metadata = name, MetadataCatalog.get(name)
        self.is_train, self.is_test = is_train, is_test
        self.joint_names = list(self.metadata.get("keypoint_names") or ())
        self.num_labelled = {x.description: sum(map(bool, map(x.has, records))) for x in labels}
        self.num_empty = sum(r.get("annotations") == [] for r in records)
        self.records = [{k: v for k, v in r.items() if k != "annotations"} for r in records]
        self.sizes = np.array(
            [[_as_index(r.get(key), 0) for key in ("height", "width")] for r in records]
        )
        counts = [len(r.get("annotations", ())) for r in records]
        self.images = np.repeat(np.arange(len(records)), counts)
        objects = [a for r in records for a in r.get("annotations", ())]
        self.classes = np.array([_as_index(a.get("category_id"), -1) for a in objects], np.int64)
        self.crowds = np.array([bool(a.get("iscrowd")) for a in objects], dtype=bool)
        self.boxes = _boxes(objects)
        self.bad_masks: dict[int, str] = {}
        self.mask_boxes = self._mask_boxes(objects)
        self.people, self.joints = _joints(objects, self.crowds, len(self.joint_names))

    def object_name(self, index: int) -> str:
        """An object for messages."""
        number = index - np.searchsorted(self.images, self.images[index]) + 1
        return f"{self.records[self.images[index]].get('file_name')}, object {number}"

    def _mask_boxes(self, objects: Objects) -> np.ndarray:
        """Polygons by their corners; of run lengths pycocotools knows it."""
        result = np.full((len(objects), 4), np.nan)
        for index, annotation in enumerate(objects):
            mask, (height, width) = annotation.get("segmentation"), self.sizes[self.images[index]]
            if not mask or not height or not width:
                continue
            try:
                mask = clean_segmentation(mask, int(height), int(width))
            except MaskError as error:
                self.bad_masks[index] = str(error)
                continue
            if isinstance(mask, dict):
                x, y, w, h = mask_util.toBbox(mask)
                result[index] = x, y, x + w, y + h
            else:
                xs, ys = ([v for p in mask for v in p[start::2]] for start in (0, 1))
                result[index, :2] = max(min(xs), 0), max(min(ys), 0)
                result[index, 2:] = min(max(xs), width), min(max(ys), height)
        return result


def _as_index(value: Any, otherwise: int) -> int:
    return value if type(value) is int and 0 <= value < 2**31 else otherwise


def _boxes(objects: Objects) -> np.ndarray:
    result = np.full((len(objects), 4), np.nan)
    for mode in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        of_mode = [i for i, a in enumerate(objects) if a.get("bbox_mode") == mode]
        rows = [i for i in of_mode if len(objects[i].get("bbox") or ()) == 4]
        if rows:
            boxes = np.array([objects[i]["bbox"] for i in rows], dtype=np.float64)
            result[rows] = BoxMode.convert(boxes, mode, BoxMode.XYXY_ABS)
    return result


def _joints(objects: Objects, crowds: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Of objects with as many keypoints as the dataset names, or as most of them have."""
    given = {
        i: a["keypoints"]
        for i, a in enumerate(objects)
        if a.get("keypoints") and not crowds[i] and any(a["keypoints"][2::3])
    }
    lengths = Counter(map(len, given.values()))
    length = 3 * number if number else max(lengths, key=lengths.__getitem__, default=0)
    rows = [i for i, points in given.items() if len(points) == length]
    joints = np.array([given[i] for i in rows], dtype=np.float64)
    return np.array(rows, dtype=np.int64), joints.reshape(len(rows), length // 3, 3)
