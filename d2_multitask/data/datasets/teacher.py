"""Labels that a trained network, a teacher, gave to a dataset's images.

`tools/label_with_teacher.py` writes them to a folder (docs/teachers.md). Where an image has true
labels of a task, these count alone. What the teacher is not sure of is neither object nor
background.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from d2_multitask.data.datasets.coco_annotations import (
    ObjectReader,
    as_id,
    as_number,
    is_text,
    shown,
)
from d2_multitask.data.datasets.coco_json import check_ids, read_categories, read_json
from d2_multitask.data.io import ImageReadError, image_size
from d2_multitask.data.labels.base import MapLabel, size_of
from d2_multitask.data.labels.foreground import ForegroundLabel
from d2_multitask.data.labels.instances import KeypointLabel
from d2_multitask.data.labels.sem_seg import SemSegLabel
from d2_multitask.data.problems import Problem

logger = logging.getLogger(__name__)

LABELS_FILE = "labels.json"
MAP_LABELS: tuple[type[MapLabel], ...] = (SemSegLabel, ForegroundLabel)
# Least IoU of an object and the teacher's, whose keypoints it gets.
_SAME_OBJECT = 0.5
# Least share of an unsure box inside of a sure one of which it is a part.
_PART = 0.8

Record = dict[str, Any]


class Thresholds(NamedTuple):
    """Below them a label is ignored: scores of objects and keypoints, probabilities of pixels."""

    objects: float = 0.3
    keypoints: float = 0.1
    maps: float = 0.6


@dataclass(frozen=True)
class TeacherLabels:
    """The labels in a folder, for one dataset.

    Attributes:
        root: the folder.
        thresholds: see the class.
    """

    root: str
    thresholds: Thresholds = Thresholds()

    def add_to(
        self,
        name: str,
        records: Sequence[Record],
        names: Sequence[str],
        metadata: dict[str, Any],
        problems: list[Problem],
    ) -> None:
        """Add the labels to dicts that have none of their task, in place.

        Args:
            name: of the dataset.
            records: its dicts, complete otherwise.
            names: of each image's maps, without suffix.
            metadata: names of classes and keypoints; those that it lacks become the teacher's.
            problems: what is odd about single objects is added.

        Raises:
            ValueError: the labels are not those of these images, or of other classes or keypoints;
                a confidence is not in [0, 1]; a map is missing or of another size; there are
                neither objects nor maps.
        """
        file = os.path.join(self.root, LABELS_FILE)
        where = f"Dataset {name!r}: TEACHER_ROOT: {file}"
        if not os.path.isfile(file):
            raise ValueError(
                f"{where}: there is no such file, expected the labels of a teacher: type python "
                f"tools/label_with_teacher.py --config-file FILE --input {name} --output "
                f"{self.root} MODEL.WEIGHTS FILE"
            )
        content = read_json(file)
        for field in ("images", "annotations"):
            entries = content.get(field, [])
            if not isinstance(entries, list) or not all(isinstance(x, dict) for x in entries):
                raise ValueError(
                    f"{where}: field {field!r}: found no list of objects, expected one"
                )
        image_ids = _check_images(where, content.get("images", []), name, records)
        added: Counter[str] = Counter()
        for label in self._map_labels(where, content):
            if label is SemSegLabel:
                _agree(where, "stuff_classes", content.get("stuff_classes"), metadata)
            added[label.description] = self._add_maps(where, label, records, names)
        if "annotations" in content:
            found = self._read_objects(where, content, image_ids, records, metadata, problems)
            _add_objects(records, found, added)
        told = ", ".join(f"{what} of {number} images" for what, number in added.items() if number)
        logger.info("Dataset %s: labels of the teacher %s: %s", name, self.root, told or "none")

    def _map_labels(self, where: str, content: Mapping[str, Any]) -> list[type[MapLabel]]:
        """Of which there are maps."""
        found = [x for x in MAP_LABELS if os.path.isdir(os.path.join(self.root, x.key))]
        advice = "type the command of tools/label_with_teacher.py again"
        if "stuff_classes" in content and SemSegLabel not in found:
            raise ValueError(
                f"{where}: field 'stuff_classes': found it without the folder "
                f"{os.path.join(self.root, SemSegLabel.key)}, expected the semantic maps: {advice}"
            )
        if not found and "annotations" not in content:
            folders = " or ".join(label.key for label in MAP_LABELS)
            raise ValueError(
                f"{where}: found no labels, expected the field 'annotations', or beside the file a "
                f"folder {folders}: {advice}"
            )
        return found

    def _add_maps(
        self, where: str, label: type[MapLabel], records: Sequence[Record], names: Sequence[str]
    ) -> int:
        number = 0
        for record, image in zip(records, names, strict=True):
            if not label().has(record):
                for key in (label.key, f"{label.key}_confidence"):
                    file = os.path.join(self.root, key, f"{image}.png")
                    _check_size(where, file, size_of(record))
                    record[f"{key}_file_name"] = file
                record[f"{label.key}_min_confidence"] = self.thresholds.maps
                number += 1
        return number

    def _read_objects(
        self,
        where: str,
        content: Mapping[str, Any],
        image_ids: Collection[Any],
        records: Sequence[Record],
        metadata: dict[str, Any],
        problems: list[Problem],
    ) -> dict[Any, list[dict[str, Any]]]:
        """The objects of each image; those below the threshold are regions that are ignored."""
        categories = read_categories(content.get("categories"), where)
        for key in ("thing_classes", "keypoint_names"):
            if found := getattr(categories, key):
                _agree(where, key, found, metadata)
        for key, value in categories.as_metadata().items():
            metadata.setdefault(key, value)
        reader = ObjectReader(categories.contiguous_ids, len(categories.keypoint_names), problems)
        sizes = {record["image_id"]: size_of(record) for record in records}
        result: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for index, annotation in enumerate(content["annotations"]):
            place = f"{where}: annotations[{index}]"
            image_id = as_id(annotation.get("image_id"))
            if image_id not in image_ids:
                raise ValueError(
                    f"{place}: field 'image_id': found {shown(annotation.get('image_id'))}, "
                    "expected the id of one of the file's images"
                )
            if reader.is_listed_twice(annotation, place):
                continue
            if image_id in sizes:  # else of another dataset of the same images
                label = reader.read(annotation, *sizes[image_id], place)
                if label is not None:
                    result[image_id].append(self._unsure(label, annotation, place))
        return {image_id: _without_parts(objects) for image_id, objects in result.items()}

    def _unsure(
        self, label: dict[str, Any], annotation: Mapping[str, Any], where: str
    ) -> dict[str, Any]:
        """The object with its confidences."""
        label.pop("segmentation", None)  # would be a true label of other tasks
        label["confidence"] = _confidences(where, "score", [annotation.get("score")])[0]
        if label["confidence"] < self.thresholds.objects:
            label["iscrowd"] = 1
        if "keypoints" in label:
            points = np.array(label["keypoints"]).reshape(-1, 3)
            scores = annotation.get("keypoint_scores")
            label["keypoint_confidence"] = _confidences(
                where, "keypoint_scores", scores, len(points)
            )
            points[np.array(scores) < self.thresholds.keypoints] = 0
            label["keypoints"] = points.reshape(-1).tolist()
        return label


def _without_parts(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without unsure objects inside of sure ones of their class, which they would hide."""
    if len({a["iscrowd"] for a in objects}) < 2:
        return objects
    unsure, boxes, classes = (
        np.array([a[key] for a in objects]) for key in ("iscrowd", "bbox", "category_id")
    )
    inside = mask_util.iou(boxes, boxes, np.ones(len(boxes)))  # shares of the first one's area
    same = (classes[:, None] == classes) & (unsure == 0)
    hides = (unsure == 1) & ((inside >= _PART) & same).any(1)
    return [a for a, left_out in zip(objects, hides, strict=True) if not left_out]


def _add_objects(
    records: Sequence[Record], found: Mapping[Any, list[dict[str, Any]]], added: Counter[str]
) -> None:
    for record in records:
        objects = found.get(record["image_id"], [])
        if "annotations" not in record:
            record["annotations"] = objects
            added["objects"] += 1
        elif not KeypointLabel().has(record):
            added["keypoints"] += _give_keypoints(record["annotations"], objects)


def _check_images(
    where: str, images: Sequence[Mapping[str, Any]], name: str, records: Sequence[Record]
) -> dict[Any, Mapping[str, Any]]:
    """Every image of the dataset is one of the teacher's: same id, name and size.

    Returns:
        The teacher's images by their ids.
    """
    check_ids(where, images)
    given = {as_id(image.get("id")): image for image in images}
    advice = f"label them again: python tools/label_with_teacher.py --input {name} ..."
    missing = [r["image_id"] for r in records if r["image_id"] not in given]
    if missing:
        raise ValueError(
            f"{where}: field 'images': found the ids {list(given)[:5]}, expected those of the "
            f"dataset, such as {missing[:5]} ({len(missing)} of {len(records)} are not there); "
            f"{advice}"
        )
    for record in records:
        image = given[record["image_id"]]
        found = os.path.basename(str(image.get("file_name"))), *map(image.get, ("height", "width"))
        expected = os.path.basename(record["file_name"]), *size_of(record)
        if found != expected:
            raise ValueError(
                f"{where}: image {record['image_id']}: found (name, height, width) {found}, "
                f"expected {expected}; {advice}"
            )
    return given


def _agree(where: str, key: str, found: Any, metadata: dict[str, Any]) -> None:
    """The teacher's names are the dataset's; if it has none they become its."""
    if found is not None and not (isinstance(found, list) and all(map(is_text, found))):
        raise ValueError(f"{where}: {key}: found {shown(found)}, expected a list of texts")
    expected = metadata.get(key, found)
    if not found or list(expected) != list(found):
        advice = "; --classes of tools/label_with_teacher.py chooses and orders them"
        raise ValueError(
            f"{where}: {key}: found {found}, expected {expected or 'names'} as in the dataset"
            f"{advice if key == 'thing_classes' else ''}"
        )
    metadata[key] = expected


def _check_size(where: str, file: str, size: tuple[int, int]) -> None:
    try:
        found = image_size(file)
    except ImageReadError as error:
        raise ValueError(
            f"{where}: {error}; expected a map of each image: type the command of "
            "tools/label_with_teacher.py again"
        ) from error
    if found != size:
        raise ValueError(
            f"{where}: {file}: found {found[1]}x{found[0]}, expected {size[1]}x{size[0]} as the "
            "image (width x height)"
        )


def _confidences(where: str, field: str, values: Any, number: int = 1) -> list[float]:
    numbers = [as_number(value) for value in values] if isinstance(values, list) else []
    if len(numbers) != number or any(x is None or not 0 <= x <= 1 for x in numbers):
        expected = "a number from 0 to 1" if field == "score" else f"{number} numbers from 0 to 1"
        found = values[0] if field == "score" else values
        raise ValueError(f"{where}: field {field!r}: found {shown(found)}, expected {expected}")
    return numbers


def _give_keypoints(objects: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> bool:
    """Give objects the keypoints of those that the teacher found in their boxes, in place."""
    from scipy.optimize import linear_sum_assignment  # only this needs it

    objects = [a for a in objects if not a["iscrowd"]]
    found = [a for a in found if "keypoints" in a]
    if not objects or not found:
        return False
    boxes, others = (
        np.array([BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYWH_ABS) for a in side])
        for side in (objects, found)
    )
    overlap = mask_util.iou(boxes, others, [0] * len(others))
    for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
        if overlap[row, column] >= _SAME_OBJECT:
            for field in ("keypoints", "keypoint_confidence"):
                objects[row][field] = found[column][field]
    return any("keypoints" in annotation for annotation in objects)
