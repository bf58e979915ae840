"""Ground truth of one image at its original size, one function a label.

The mapper and the evaluators use these functions, so that training and evaluation see the same
labels. All take a data set's dict with ``height`` and ``width``, and return ``None`` for a label
that the image does not carry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from d2_multitask.data.io import ImageReadError, read_label_map
from d2_multitask.data.labels.occlusion import rasterize_fragments, read_fragments
from d2_multitask.data.labels.segments import decode_or_report, paint_segments
from d2_multitask.data.labels.sem_seg import load_sem_seg
from d2_multitask.data.problems import DATA_REPORT, ProblemReport

IGNORE_VALUE = 255
NUM_IMAGE_LABELS = 59

BAD_PARTS = "part map that cannot be used, the image is not used for parts"
UNKNOWN_PARTS = "part map with unknown ids, those pixels are ignored"
BAD_BOUNDARY = "boundary map that cannot be used, the image is not used for boundaries"
UNKNOWN_BOUNDARY = "boundary map with other values than 0, 1, 255, those pixels are ignored"


def sem_seg_map(
    dataset_dict: Mapping[str, Any], report: ProblemReport = DATA_REPORT
) -> np.ndarray | None:
    """Semantic classes: (H, W) uint8, 255 = no label.

    From ``sem_seg_segments`` (painted in their order), ``sem_seg_file_name``, or the objects' masks
    (``sem_seg_from_annotations``).
    """
    return load_sem_seg(dataset_dict, *_size(dataset_dict), num_classes=255, report=report)


def part_seg_map(
    dataset_dict: Mapping[str, Any],
    report: ProblemReport = DATA_REPORT,
    num_classes: int = IGNORE_VALUE,
) -> np.ndarray | None:
    """Human parts: (H, W) uint8, 0 = background, 255 = not labelled (a person without parts).

    From ``part_seg_segments`` (painted in their order over 0) or ``part_seg_file_name``; ids from
    ``num_classes`` on become 255, counted.
    """
    if "part_seg_file_name" in dataset_dict:
        parts = _read_map(dataset_dict, "part_seg_file_name", BAD_PARTS, report)
    elif "part_seg_segments" in dataset_dict:
        parts = paint_segments(
            dataset_dict["part_seg_segments"],
            *_size(dataset_dict),
            background=0,
            report=report,
            where=f"{_name(dataset_dict)}: parts",
        )
    else:
        return None
    return None if parts is None else _known_parts(parts, num_classes, dataset_dict, report)


def _known_parts(
    parts: np.ndarray, num_classes: int, dataset_dict: Mapping[str, Any], report: ProblemReport
) -> np.ndarray:
    unknown = (parts >= num_classes) & (parts != IGNORE_VALUE)
    if not unknown.any():
        return parts
    found, counts = np.unique(parts[unknown], return_counts=True)
    details = (
        f"found ids {found[:10].tolist()} in {counts.sum()} pixels, expected 0..{num_classes - 1} "
        f"or {IGNORE_VALUE}"
    )
    where = str(dataset_dict.get("part_seg_file_name") or _name(dataset_dict))
    report.add(UNKNOWN_PARTS, where, details)
    return np.where(unknown, np.uint8(IGNORE_VALUE), parts)


def boundary_map(
    dataset_dict: Mapping[str, Any], report: ProblemReport = DATA_REPORT
) -> np.ndarray | None:
    """Boundaries: (H, W) uint8, 1 = boundary, 0 = none, 255 = not labelled.

    From ``boundary_segmentation`` (a run-length mask) or ``boundary_file_name``.
    """
    if "boundary_file_name" in dataset_dict:
        boundary = _read_map(dataset_dict, "boundary_file_name", BAD_BOUNDARY, report)
        if boundary is None:
            return None
        unknown = (boundary > 1) & (boundary != IGNORE_VALUE)
        if unknown.any():
            found = np.unique(boundary[unknown]).tolist()[:10]
            report.add(UNKNOWN_BOUNDARY, str(dataset_dict["boundary_file_name"]), f"found {found}")
            boundary = np.where(unknown, np.uint8(IGNORE_VALUE), boundary)
        return boundary
    if "boundary_segmentation" not in dataset_dict:
        return None
    mask = decode_or_report(
        dataset_dict["boundary_segmentation"],
        *_size(dataset_dict),
        report,
        f"{_name(dataset_dict)}: boundary",
        allow_empty=True,  # an image may show nothing that has a boundary
    )
    return None if mask is None else np.ascontiguousarray(mask).astype(np.uint8)


def occlusion_map(dataset_dict: Mapping[str, Any]) -> np.ndarray | None:
    """Who is in front: (2, H, W) float32.

    At the pixels of the occlusion fragments the unit vector (x, y), y down, from the boundary to
    the object in front (the occluder); zeros elsewhere. From ``occlusion_fragments``, see
    :func:`d2_multitask.data.labels.occlusion.read_fragments`.

    Raises:
        ValueError: an index outside of the image, or labels that do not fit the fragments.
    """
    if "occlusion_fragments" not in dataset_dict:
        return None
    height, width = _size(dataset_dict)
    fragments = read_fragments(
        dataset_dict["occlusion_fragments"], height, width, _name(dataset_dict)
    )
    return rasterize_fragments(fragments, height, width)


def image_label_vector(
    dataset_dict: Mapping[str, Any], num_classes: int = NUM_IMAGE_LABELS
) -> np.ndarray | None:
    """Classes that the image shows: (num_classes,) int64, 1 = present. From ``image_labels``.

    Raises:
        ValueError: a class id outside of 0..num_classes - 1.
    """
    if "image_labels" not in dataset_dict:
        return None
    present = np.asarray(dataset_dict["image_labels"], dtype=np.int64)
    if len(present) and not 0 <= present.min() <= present.max() < num_classes:
        raise ValueError(
            f"{_name(dataset_dict)}: image_labels: found {present.tolist()}, expected ids of 0.."
            f"{num_classes - 1}"
        )
    labels = np.zeros(num_classes, dtype=np.int64)
    labels[present] = 1
    return labels


def _read_map(
    dataset_dict: Mapping[str, Any], key: str, kind: str, report: ProblemReport
) -> np.ndarray | None:
    """(H, W) uint8 from a PNG; ``None``, and counted, if it cannot be used."""
    file_name, size = str(dataset_dict[key]), _size(dataset_dict)
    try:
        ids = read_label_map(file_name, expected_size=size)
    except ImageReadError as error:
        report.add(kind, file_name, str(error))
        return None
    if ids.shape != size or ids.min() < 0 or ids.max() > 255:
        report.add(
            kind,
            file_name,
            f"found {ids.shape[1]}x{ids.shape[0]} with ids {ids.min()}..{ids.max()}, expected "
            f"{size[1]}x{size[0]} as the image (width x height) with ids in 0..255",
        )
        return None
    return ids.astype(np.uint8, copy=False)


def _size(dataset_dict: Mapping[str, Any]) -> tuple[int, int]:
    return int(dataset_dict["height"]), int(dataset_dict["width"])


def _name(dataset_dict: Mapping[str, Any]) -> str:
    return str(dataset_dict.get("file_name", "image"))
