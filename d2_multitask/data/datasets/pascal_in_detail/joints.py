"""``annos_joints`` -> keypoints of instances, found by geometry, because the file has no link.

The file's keypoints are pixel indices with a decimal, as COCO's; half a pixel is added to make them
continuous. Its visibility is the reverse of COCO's: 1 is visible, 2 is occluded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from torch import float64, tensor

from d2_multitask.data.datasets.coco_annotations import ObjectReader, flat_keypoints
from d2_multitask.data.datasets.pascal_in_detail.annotation_file import AnnotationFile
from d2_multitask.data.datasets.pascal_in_detail.labels import PERSON_CLASS
from d2_multitask.data.datasets.pascal_in_detail.names import CATEGORY_IDS, NUM_KEYPOINTS, PERSON
from d2_multitask.data.labels.masks import MaskError, rle_run_lengths

Record = dict[str, Any]

_TO_COCO = {1: 2, 2: 1}

# A skeleton belongs to a person if half of its keypoints are within so many pixels of the mask, or
# its box overlaps the mask's box by half.
_REACH = 3
_LEAST_INSIDE = 0.5
_LEAST_IOU = 0.5
_OFFSETS = np.array(
    [
        (x, y)
        for x in range(-_REACH, _REACH + 1)
        for y in range(-_REACH, _REACH + 1)
        if x * x + y * y <= _REACH * _REACH
    ]
)


@dataclass
class MatchCounts:
    """How many of the file's ``skeletons`` were ``matched`` to one of its ``people``."""

    skeletons: int = 0
    matched: int = 0
    people: int = 0

    def __str__(self) -> str:
        rate = self.matched / self.skeletons if self.skeletons else 0.0
        return (
            f"{self.matched} of {self.skeletons} skeletons ({rate:.1%}) belong to one of "
            f"{self.people} people"
        )


def add_joints(file: AnnotationFile, records: Mapping[int, Record]) -> MatchCounts | None:
    """Give every object ``keypoints`` (42 numbers, COCO's visibility; zeros if it has none).

    Skeletons that fit no instance are kept as ``unmatched_keypoints``, a list of ``bbox``,
    ``bbox_mode`` and ``keypoints``. A file without ``annos_joints`` changes nothing.

    Args:
        file: the annotations of all phases.
        records: image id -> dict of the images that are wanted, with ``annotations``; changed in
            place.

    Returns:
        How many skeletons were matched; ``None`` if the file has no keypoints.
    """
    if "annos_joints" not in file.content:
        return None
    reader = ObjectReader({CATEGORY_IDS[PERSON]: 0}, NUM_KEYPOINTS, problems=file.problems)
    skeletons: dict[int, list[Record]] = {}
    for where, entry in file.entries("annos_joints"):
        record = records.get(entry["image_id"])
        if record is None:
            continue
        skeleton = _read_skeleton(entry, record, f"{file.path}: {where}", reader)
        if skeleton is not None:
            skeletons.setdefault(entry["image_id"], []).append(skeleton)
    counts = MatchCounts()
    for image_id, record in records.items():
        _match_image(record, skeletons.get(image_id, []), counts)
    return counts


def to_coco_visibility(keypoints: Any) -> Any:
    """The file's keypoints as a flat list with COCO's visibility; what is no list as it is."""
    keypoints = flat_keypoints(keypoints)
    if not isinstance(keypoints, list):
        return keypoints
    return [
        _TO_COCO.get(value, value) if index % 3 == 2 and type(value) in (int, float) else value
        for index, value in enumerate(keypoints)
    ]


def _read_skeleton(
    entry: Mapping[str, Any], record: Mapping[str, Any], where: str, reader: ObjectReader
) -> Record | None:
    given = {
        "bbox": entry.get("bbox"),
        "category_id": CATEGORY_IDS[PERSON],
        "keypoints": to_coco_visibility(entry.get("keypoints")),
    }
    read = reader.read(given, record["height"], record["width"], where)
    if read is None or not any(read.get("keypoints", ())):
        return None
    return {key: read[key] for key in ("bbox", "bbox_mode", "keypoints")}


def _match_image(record: Record, skeletons: Sequence[Record], counts: MatchCounts) -> None:
    for annotation in record.get("annotations", ()):
        annotation["keypoints"] = [0.0] * (3 * NUM_KEYPOINTS)
    people = [
        a
        for a in record.get("annotations", ())
        if a["category_id"] == PERSON_CLASS and not a["iscrowd"]
    ]
    counts.people += len(people)
    counts.skeletons += len(skeletons)
    if not skeletons:
        return
    person_of = dict(match_skeletons(skeletons, people))
    for index, person in person_of.items():
        people[person]["keypoints"] = skeletons[index]["keypoints"]
    counts.matched += len(person_of)
    unmatched = [s for index, s in enumerate(skeletons) if index not in person_of]
    if unmatched:
        record["unmatched_keypoints"] = unmatched


def match_skeletons(skeletons: Sequence[Record], people: Sequence[Record]) -> list[tuple[int, int]]:
    """Pairs (skeleton, person) that fit best in sum, each used at most once (Hungarian method).

    How well a pair fits is the mean of the share of labelled keypoints within 3 pixels of the mask
    and of the boxes' IoU. A pair with less than half of both is none.
    """
    from scipy.optimize import linear_sum_assignment  # only data with keypoints needs it

    if not skeletons or not people:
        return []
    inside = np.stack([_inside(skeletons, person) for person in people], axis=1)
    iou = pairwise_iou(_boxes(skeletons), _boxes(people)).numpy()
    fits = (inside >= _LEAST_INSIDE) | (iou >= _LEAST_IOU)
    score = np.where(fits, 0.5 * (inside + iou), 0.0)
    pairs = zip(*linear_sum_assignment(score, maximize=True), strict=True)
    return [(int(s), int(p)) for s, p in pairs if fits[s, p]]


def _inside(skeletons: Sequence[Record], person: Mapping[str, Any]) -> np.ndarray:
    """(number of skeletons,) share of each one's labelled keypoints at the person's mask."""
    keypoints = np.array([s["keypoints"] for s in skeletons]).reshape(-1, NUM_KEYPOINTS, 3)
    labelled = keypoints[..., 2] > 0
    try:
        hit = _near_mask(keypoints[..., :2], person.get("segmentation"))
    except MaskError:
        hit = np.zeros(labelled.shape, dtype=bool)
    return (hit & labelled).sum(axis=1) / np.maximum(labelled.sum(axis=1), 1)


def _near_mask(xy: np.ndarray, segmentation: Any) -> np.ndarray:
    """Whether points (..., 2) are within ``_REACH`` pixels of a mask, without decoding it."""
    if not isinstance(segmentation, dict):
        return np.zeros(xy.shape[:-1], dtype=bool)
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    runs = np.asarray(counts) if isinstance(counts, list) else rle_run_lengths(counts)
    pixels = np.floor(xy).astype(np.int64)[..., None, :] + _OFFSETS  # (..., offsets, 2)
    in_image = ((pixels >= 0) & (pixels < (width, height))).all(axis=-1)
    index = pixels[..., 0] * height + pixels[..., 1]
    # Runs are absent and present pixels in turn, so odd runs are the mask.
    run = np.searchsorted(np.cumsum(runs), index, side="right")
    return (in_image & (run % 2 == 1)).any(axis=-1)


def _boxes(items: Sequence[Mapping[str, Any]]) -> Boxes:
    """The ``bbox`` (x, y, w, h) of each."""
    boxes = tensor([item["bbox"] for item in items], dtype=float64).reshape(-1, 4)
    return Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
