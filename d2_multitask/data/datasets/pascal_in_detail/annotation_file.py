"""The file level of PASCAL in Detail: top-level keys, images, categories, parts.

Nothing in the file is sorted, ids have gaps, part ids differ between releases, and both phases are
in one file: everything is looked up by id, and names decide what a number means.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from d2_multitask.data.datasets.coco_annotations import as_file_name, shown
from d2_multitask.data.datasets.coco_json import read_json
from d2_multitask.data.datasets.pascal_in_detail.names import (
    CATEGORY_IDS,
    CLASS_ALIASES,
    PART_CLASS_OF_NAME,
    STUFF_CLASSES,
)
from d2_multitask.data.problems import Problem

PHASES = ("train", "val", "test")

UNKNOWN_CATEGORY = "unknown category, its masks are left out"
OTHER_CATEGORY_ID = "category with another id than in the known releases, taken by its name"
BAD_PART = "entry of 'parts' that cannot be used, its masks are ignored"
NO_KIND = "kind of labels that the file does not hold, no image is labelled with it"
NOT_AN_OBJECT = "entry that is no object, left out"
UNKNOWN_IMAGE = "label of an image that is not in 'images', left out"

_REQUIRED = ("images", "categories", "annos_segmentation")
_OPTIONAL = ("parts", "annos_boundary", "annos_occlusion")
_RELEASES = "trainval_merged.json or trainval_withkeypoints.json"
_LONGEST_SIDE = 1 << 16
_CONTIGUOUS = {name: index for index, name in enumerate(STUFF_CLASSES)}


@dataclass
class AnnotationFile:
    """What a file says, looked up by id.

    Attributes:
        path: of the JSON file.
        content: the JSON's lists.
        images: image id -> its entry, for the images of every known phase.
        classes: category id -> contiguous class 0..58.
        part_classes: part id -> class of the human parts 1..6, 0 for parts of other objects.
        problems: what was odd.
    """

    path: str
    content: dict[str, Any]
    images: dict[int, dict[str, Any]] = field(default_factory=dict)
    classes: dict[int, int] = field(default_factory=dict)
    part_classes: dict[int, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, kind: str, where: str, details: str) -> None:
        """Note a problem; ``where`` is a place in this file."""
        self.problems.append(Problem(kind, f"{self.path}: {where}", details))

    def entries(self, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(place, entry) of the labels of one kind whose image is known; the others are noted."""
        for index, entry in enumerate(self.content.get(key) or ()):
            if not isinstance(entry, dict):
                self.add(NOT_AN_OBJECT, f"{key}[{index}]", f"found {type(entry).__name__}")
                continue
            image_id = entry.get("image_id")
            name = next(
                (f"{k} {entry[k]}" for k in ("id", "person_id") if k in entry), f"[{index}]"
            )
            where = f"{key} {name} (image {image_id})"
            if type(image_id) is not int or image_id not in self.images:
                details = "field 'image_id': expected the id of one of the images"
                self.add(UNKNOWN_IMAGE, where, details)
                continue
            yield where, entry


def read_annotation_file(path: str) -> AnnotationFile:
    """Read a file and everything but its labels.

    Raises:
        ValueError: the file is missing, broken, of another release, or not of this layout.
    """
    content = read_json(path, object_hook=_compact)
    _check_top_level(path, content)
    file = AnnotationFile(path, content)
    for key in _OPTIONAL:
        if key not in content:
            file.add(NO_KIND, f"field '{key}'", "found nothing, expected a list")
    _read_images(file)
    _read_categories(file)
    _read_parts(file)
    return file


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    """Pixel indices as arrays: as Python numbers those of a real file would take gigabytes.

    What is no list of lists of integers stays as it is.
    """
    chains = entry.get("indices")
    if isinstance(chains, list) and all(isinstance(chain, list) for chain in chains):
        if all(set(map(type, chain)) <= {int} for chain in chains):
            with contextlib.suppress(OverflowError):
                entry["indices"] = [np.array(chain, dtype=np.int32) for chain in chains]
    return entry


def _check_top_level(path: str, content: dict[str, Any]) -> None:
    missing = [key for key in _REQUIRED if key not in content]
    if missing:
        raise ValueError(
            f"{path}: field {missing[0]!r}: found nothing among {sorted(content)}, expected a "
            f"list. Is it another release, such as trainval_parts.json, or another dataset? "
            f"Expected {_RELEASES} of PASCAL in Detail."
        )
    for key in (*_REQUIRED, *_OPTIONAL, "annos_joints"):
        if key in content and not isinstance(content[key], list):
            raise ValueError(
                f"{path}: field {key!r}: found {type(content[key]).__name__}, expected a list"
            )
    if not content["images"]:
        raise ValueError(f"{path}: field 'images': found an empty list, expected images")


def _read_images(file: AnnotationFile) -> None:
    for index, image in enumerate(file.content["images"]):
        error = _image_error(image)
        if error is None and image["image_id"] in file.images:
            error = f"field 'image_id': found {image['image_id']} again"
        if error:
            raise ValueError(f"{file.path}: images[{index}]: {error}")
        file.images[image["image_id"]] = image


def _image_error(image: Any) -> str | None:
    if not isinstance(image, dict):
        return f"found {type(image).__name__}, expected an object"
    for key in ("image_id", "width", "height"):
        if type(image.get(key)) is not int:
            return f"field '{key}': found {shown(image.get(key))}, expected int"
    for key in ("width", "height"):
        if not 1 <= image[key] <= _LONGEST_SIDE:
            return f"field '{key}': found {shown(image[key])}, expected 1 to {_LONGEST_SIDE} pixels"
    if as_file_name(image.get("file_name")) is None:
        return f"field 'file_name': found {shown(image.get('file_name'))}, expected a file name"
    if image.get("phase") not in PHASES:
        return f"field 'phase': found {image.get('phase')!r}, expected one of {PHASES}"
    return None


def _read_categories(file: AnnotationFile) -> None:
    for index, category in enumerate(file.content["categories"]):
        where = f"categories[{index}]"
        if not isinstance(category, dict) or type(category.get("category_id")) is not int:
            file.add(UNKNOWN_CATEGORY, where, f"found {category!r}, expected category_id and name")
            continue
        given = str(category.get("name"))
        name = CLASS_ALIASES.get(given, given)
        if name not in _CONTIGUOUS:
            details = f"field 'name': found {given!r}, expected one of the 59 classes"
            file.add(UNKNOWN_CATEGORY, where, details)
            continue
        if category["category_id"] != CATEGORY_IDS[name]:
            details = f"{name}: found {category['category_id']}, expected {CATEGORY_IDS[name]}"
            file.add(OTHER_CATEGORY_ID, where, f"field 'category_id': {details}")
        file.classes[category["category_id"]] = _CONTIGUOUS[name]
    if not file.classes:
        names = [c.get("name") for c in file.content["categories"][:5] if isinstance(c, dict)]
        raise ValueError(
            f"{file.path}: field 'categories': found {names}..., none of which is a class of "
            f"PASCAL in Detail; expected {_RELEASES}"
        )


def _read_parts(file: AnnotationFile) -> None:
    for index, part in enumerate(file.content.get("parts") or ()):
        where = f"parts[{index}]"
        if not isinstance(part, dict) or type(part.get("part_id")) is not int:
            file.add(BAD_PART, where, f"found {part!r}, expected part_id and name")
            continue
        file.part_classes[part["part_id"]] = PART_CLASS_OF_NAME.get(str(part.get("name")), 0)


def phase_counts(file: AnnotationFile) -> dict[str, int]:
    """Number of images of each phase."""
    return dict(Counter(image["phase"] for image in file.images.values()))
