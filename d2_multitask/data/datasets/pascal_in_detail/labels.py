"""The file's labels -> an image's dict: all but the keypoints.

``annos_segmentation`` holds the masks of four tasks: instances of the 20 VOC classes with masks of
their parts, and one mask per image of each other class. ``annos_boundary`` and ``annos_occlusion``
hold an image's boundary mask and fragments. Masks stay run lengths; they are decoded, and checked
to the last pixel, when an image is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from d2_multitask.data.datasets.coco_annotations import ObjectReader
from d2_multitask.data.datasets.pascal_in_detail.annotation_file import AnnotationFile
from d2_multitask.data.datasets.pascal_in_detail.names import (
    NUM_KEYPOINTS,
    PERSON,
    SILHOUETTE_PART_ID,
    STUFF_CLASSES,
    THING_CLASSES,
)
from d2_multitask.data.labels.base import IGNORE_VALUE
from d2_multitask.data.labels.edges import LEFT, RIGHT
from d2_multitask.data.labels.masks import to_rle

Record = dict[str, Any]

BAD_CATEGORY = "mask of an unknown category, left out"
BAD_SEGMENT = "mask that cannot be used, left out of the semantic map"
UNKNOWN_PART = "mask of an unknown part, its pixels are ignored for parts"
BAD_PART_MASK = "mask of a part that cannot be used, the person is ignored for parts"
REPEATED_ID = "annotation id used twice, both are kept"
BAD_BOUNDARY = "boundary mask that cannot be used, left out"
TWO_BOUNDARIES = "second boundary mask of an image, left out"
BAD_OCCLUSION = "occlusion labels of an image that cannot be used, left out"
TWO_OCCLUSIONS = "second occlusion labels of an image, left out"
BAD_FRAGMENT = "occlusion fragment that cannot be used, left out"
NO_LABELS = "image without any annotation, kept as unlabelled"

PERSON_CLASS = THING_CLASSES.index(PERSON)
_NUM_THINGS = len(THING_CLASSES)


def add_segmentation(file: AnnotationFile, records: Mapping[int, Record]) -> None:
    """Add ``annotations``, ``sem_seg_segments``, ``part_seg_segments`` and ``image_labels``.

    Args:
        file: the annotations of all phases.
        records: image id -> Detectron2's dict of the images that are wanted; changed in place.
            Images without any annotation get none of the keys.
    """
    reader = ObjectReader(
        {c: index for c, index in file.classes.items() if index < _NUM_THINGS},
        NUM_KEYPOINTS,
        problems=file.problems,
    )
    seen_ids: set[str] = set()
    people: dict[int, list[tuple[str, dict[str, Any], Record]]] = {}
    for where, entry in file.entries("annos_segmentation"):
        record = records.get(entry["image_id"])
        if record is None:
            continue
        number = str(entry.get("id"))  # text, because a file may hold a list there
        if number in seen_ids:
            file.add(REPEATED_ID, where, f"field 'id': found {number} again")
        seen_ids.add(number)
        category_id = entry.get("category_id")
        class_id = file.classes.get(category_id) if type(category_id) is int else None
        if class_id is None:
            details = f"field 'category_id': found {category_id!r}, expected one of 'categories'"
            file.add(BAD_CATEGORY, where, details)
            continue
        if "annotations" not in record:
            record.update(annotations=[], sem_seg_segments=[], image_labels=set())
        record["image_labels"].add(class_id)
        if class_id < _NUM_THINGS:
            instance = _add_instance(file, record, entry, class_id, where, reader)
            if instance is not None and class_id == PERSON_CLASS and not instance["iscrowd"]:
                people.setdefault(entry["image_id"], []).append((where, entry, instance))
        else:
            _add_stuff(file, record, entry, class_id, where)
    for image_id, record in records.items():
        if "annotations" not in record:
            details = "field 'annos_segmentation': found none of this image"
            file.add(NO_LABELS, f"image {record['file_name']}", details)
            continue
        record["image_labels"] = sorted(record["image_labels"])
        segments = _part_segments(file, record, people.get(image_id, ()))
        if segments is not None:
            record["part_seg_segments"] = segments


def _add_instance(
    file: AnnotationFile,
    record: Record,
    entry: Mapping[str, Any],
    class_id: int,
    where: str,
    reader: ObjectReader,
) -> Record | None:
    """Add an object of the 20 classes; ``None`` if neither its box nor its mask is usable."""
    given = {
        key: entry[key]
        for key in ("bbox", "segmentation", "iscrowd", "category_id")
        if entry.get(key) is not None
    }
    place = f"{file.path}: {where}"
    instance = reader.read(given, record["height"], record["width"], place)
    if instance is None:
        return None
    instance["annotation_id"] = entry.get("id")
    record["annotations"].append(instance)
    if "segmentation" in instance:
        segment = {"category_id": class_id, "segmentation": instance["segmentation"]}
        record["sem_seg_segments"].append(segment)
    return instance


def _add_stuff(
    file: AnnotationFile, record: Record, entry: Mapping[str, Any], class_id: int, where: str
) -> None:
    segmentation = entry.get("segmentation")
    error = rle_error(segmentation, record)
    if error:
        file.add(BAD_SEGMENT, where, f"field 'segmentation' ({STUFF_CLASSES[class_id]}): {error}")
        return
    record["sem_seg_segments"].append({"category_id": class_id, "segmentation": segmentation})


def rle_error(segmentation: Any, record: Mapping[str, Any]) -> str | None:
    """What is wrong with a run-length mask, as far as that is seen without decoding it."""
    if not isinstance(segmentation, dict):
        return f"found {type(segmentation).__name__}, expected run lengths with size and counts"
    size = [record["height"], record["width"]]
    if segmentation.get("size") != size:
        return f"found size {segmentation.get('size')}, expected {size} (height, width)"
    if not isinstance(segmentation.get("counts"), str | list) or not segmentation["counts"]:
        return f"found counts of type {type(segmentation.get('counts')).__name__}, expected text"
    return None


def _part_segments(
    file: AnnotationFile,
    record: Record,
    people: Iterable[tuple[str, dict[str, Any], Record]],
) -> list[dict[str, Any]] | None:
    """Masks of the human part map in painting order; ``None`` if no person has parts.

    People without part masks, whose parts are not known, are painted first, as ignored pixels.
    """
    ignored: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for where, entry, instance in people:
        labelled, complete = _parts_of_person(file, record, entry, where)
        if not complete or not labelled:
            segmentation = instance.get("segmentation") or _box_mask(instance["bbox"], record)
            ignored.append({"category_id": IGNORE_VALUE, "segmentation": segmentation})
        parts += labelled
    if not any(segment["category_id"] != IGNORE_VALUE for segment in parts):
        return None
    return ignored + parts


def _parts_of_person(
    file: AnnotationFile, record: Record, entry: Mapping[str, Any], where: str
) -> tuple[list[dict[str, Any]], bool]:
    """Segments of one person's parts, and whether no mask had to be left out."""
    segments, complete = [], True
    given = entry.get("parts")
    if given is not None and not isinstance(given, list):
        details = f"field 'parts': found {type(given).__name__}, expected a list"
        file.add(BAD_PART_MASK, where, details)
        return segments, False
    for part in given or ():
        part_id = part.get("part_id") if isinstance(part, dict) else None
        if part_id == SILHOUETTE_PART_ID:
            continue
        segmentation = part.get("segmentation") if isinstance(part, dict) else None
        error = rle_error(segmentation, record)
        if error:
            file.add(BAD_PART_MASK, f"{where}, part {part_id}", f"field 'segmentation': {error}")
            complete = False
            continue
        class_id = file.part_classes.get(part_id) if type(part_id) is int else None
        if not class_id:
            details = f"field 'part_id': found {part_id!r}, expected a person's part of 'parts'"
            file.add(UNKNOWN_PART, f"{where}, part {part_id}", details)
        segments.append({"category_id": class_id or IGNORE_VALUE, "segmentation": segmentation})
    return segments, complete


def _box_mask(box: list[float], record: Mapping[str, Any]) -> dict[str, Any]:
    """A box as a run-length mask."""
    x, y, w, h = box
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return to_rle([corners], record["height"], record["width"])


def add_boundaries(file: AnnotationFile, records: Mapping[int, Record]) -> None:
    """Add ``boundary_segmentation`` to the dicts of the images that have one."""
    for where, entry in file.entries("annos_boundary"):
        record = records.get(entry["image_id"])
        if record is None:
            continue
        mask = entry.get("boundary_mask")
        error = rle_error(mask, record)
        if error:
            file.add(BAD_BOUNDARY, where, f"field 'boundary_mask': {error}")
        elif "boundary_segmentation" in record:
            file.add(TWO_BOUNDARIES, where, "field 'image_id': expected one entry per image")
        else:
            record["boundary_segmentation"] = mask


def add_occlusions(file: AnnotationFile, records: Mapping[int, Record]) -> None:
    """Add ``occlusion_fragments``: ``indices`` (column-major, 0-based) and ``labels``, see
    :mod:`d2_multitask.data.labels.edges`.

    Raises:
        ValueError: the indices count from 1, as in MATLAB: each would be another pixel.
    """
    has_zero, one_based = False, ""
    for where, entry in file.entries("annos_occlusion"):
        record = records.get(entry["image_id"])
        if record is None:
            continue
        chains, labels, error = read_edges(entry, record)
        if error:
            file.add(BAD_OCCLUSION, where, error)
            continue
        if "occlusion_fragments" in record:
            file.add(TWO_OCCLUSIONS, where, "field 'image_id': expected one entry per image")
            continue
        indices = np.concatenate([*chains, np.zeros(0, np.int32)])
        has_zero |= bool((indices == 0).any())
        if (indices == record["height"] * record["width"]).any():
            one_based = one_based or where
        record["occlusion_fragments"] = _usable(file, record, where, chains, labels)
    if one_based and not has_zero:
        raise ValueError(
            f"{file.path}: {one_based}: field 'edges.indices': found the number of the image's "
            "pixels, and 0 nowhere in the file: the indices count from 1, expected from 0"
        )


def read_edges(
    entry: Mapping[str, Any], record: Mapping[str, Any]
) -> tuple[list[np.ndarray], list[int], str | None]:
    """Chains of indices as the file counts them, their labels, and what is wrong with them."""
    size = [record["height"], record["width"]]
    imsize = entry.get("imsize")
    if imsize is not None and (not isinstance(imsize, list) or imsize[:2] != size):
        return [], [], f"field 'imsize': found {imsize}, expected {size} (height, width)"
    edges = entry.get("edges")
    if not edges and entry.get("ne") == 0:
        return [], [], None
    if not isinstance(edges, dict):
        return [], [], f"field 'edges': found {edges!r}, expected indices and edgelabel"
    chains, labels = edges.get("indices"), edges.get("edgelabel")
    if not isinstance(chains, list) or not all(isinstance(c, np.ndarray) for c in chains):
        return [], [], "field 'edges.indices': found something else than lists of integers"
    if not isinstance(labels, list) or len(labels) != len(chains):
        found = len(labels) if isinstance(labels, list) else labels
        return [], [], f"field 'edges.edgelabel': found {found} labels, expected {len(chains)}"
    return chains, labels, None


def _usable(
    file: AnnotationFile,
    record: Mapping[str, Any],
    where: str,
    chains: list[np.ndarray],
    labels: list[int],
) -> dict[str, list[Any]]:
    num_pixels = record["height"] * record["width"]
    kept: dict[str, list[Any]] = {"indices": [], "labels": []}
    for number, (chain, label) in enumerate(zip(chains, labels, strict=True)):
        error = None
        if isinstance(label, bool) or label not in (LEFT, RIGHT):
            error = f"field 'edges.edgelabel': found {label!r}, expected 1 or 2"
        elif len(chain) and not 0 <= chain.min() <= chain.max() < num_pixels:
            error = (
                f"field 'edges.indices': found {chain.min()}..{chain.max()}, expected 0.."
                f"{num_pixels - 1} in an image of {record['width']}x{record['height']}"
            )
        if error:
            file.add(BAD_FRAGMENT, f"{where}, fragment {number}", error)
            continue
        kept["indices"].append(chain)
        kept["labels"].append(int(label))
    return kept
