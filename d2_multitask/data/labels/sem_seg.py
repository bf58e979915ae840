"""Semantic maps of whole images: read from a PNG, or derived from the objects' masks.

Both the mapper and the evaluator use these functions, so that training and evaluation see the same
labels. Maps are (H, W) uint8 at the image's original size; ``ignore_value`` means no label.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from d2_multitask.data.io import ImageReadError, read_label_map
from d2_multitask.data.labels.masks import MaskError, decode, to_rle
from d2_multitask.data.labels.segments import paint_segments
from d2_multitask.data.problems import DATA_REPORT, ProblemReport

BAD_MAP = "semantic map that cannot be used, the image is not used for segmentation"
UNKNOWN_IDS = "semantic map with unknown ids, those pixels are ignored"
IDS_KEY, IGNORE_KEY = "SEM_SEG_IDS", "SEM_SEG_IGNORE"  # in YAML; in dicts in lower case
_MAX_VALUE = 65535  # of a 16-bit file
MASK_NOT_DECODED = "mask that cannot be decoded, its box is ignored for segmentation"


def load_sem_seg(
    dataset_dict: Mapping[str, Any],
    height: int,
    width: int,
    *,
    num_classes: int,
    ignore_value: int = 255,
    report: ProblemReport = DATA_REPORT,
) -> np.ndarray | None:
    """The semantic map of one image, wherever the dict says that it comes from.

    Args:
        dataset_dict: Detectron2's dict, with ``sem_seg_file_name`` (and, if the file holds other
            values than class ids, ``sem_seg_ids`` and ``sem_seg_ignore``, see `read_sem_seg`),
            ``sem_seg_segments`` (masks with contiguous class ids, painted in their order over
            ``ignore_value``) or ``sem_seg_from_annotations``.
        height: of the image.
        width: of the image.
        num_classes: ids from here on are unknown and become ``ignore_value``, counted.
        ignore_value: the id that means no label, in the file as in the result.
        report: where bad maps and unknown ids are counted.

    Returns:
        (H, W) uint8, or ``None`` if the image has no usable semantic label.

    Raises:
        ValueError: the ids do not fit into 8 bits, in which they would be others.
    """
    if not (_is_in(ignore_value, 255) and num_classes <= 256):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD: found NUM_CLASSES {num_classes} and IGNORE_VALUE {ignore_value}, "
            "expected at most 256 classes, and an ignored id of 0 to 255"
        )
    file_name = dataset_dict.get("sem_seg_file_name")
    if file_name:
        try:
            return read_sem_seg(
                file_name,
                height,
                width,
                num_classes,
                ids_of_values=dataset_dict.get("sem_seg_ids"),
                ignored_values=dataset_dict.get("sem_seg_ignore"),
                ignore_value=ignore_value,
                report=report,
            )
        except ImageReadError as error:
            report.add(BAD_MAP, file_name, str(error))
            return None
    where = str(dataset_dict.get("file_name", "image"))
    if "sem_seg_segments" in dataset_dict:
        segments = dataset_dict["sem_seg_segments"]
        sem_seg = paint_segments(segments, height, width, ignore_value, report=report, where=where)
        return _ignore_unknown(sem_seg, num_classes, ignore_value, report, where)
    if not dataset_dict.get("sem_seg_from_annotations") or "annotations" not in dataset_dict:
        return None
    sem_seg = sem_seg_from_annotations(
        dataset_dict["annotations"],
        height,
        width,
        ignore_value=ignore_value,
        report=report,
        where=where,
    )
    return _ignore_unknown(sem_seg, num_classes, ignore_value, report, where)


def read_sem_seg(
    file_name: str,
    height: int,
    width: int,
    num_classes: int,
    *,
    ids_of_values: Mapping[int, int] | None = None,
    ignored_values: int | Sequence[int] | None = None,
    ignore_value: int = 255,
    report: ProblemReport = DATA_REPORT,
) -> np.ndarray:
    """Read a PNG of class ids, or of other values that stand for them.

    Args:
        file_name: the map.
        height: of the image.
        width: of the image.
        num_classes: of the network.
        ids_of_values: value in the file -> class id; ``None`` = the values are the ids.
        ignored_values: values in the file that mean no label; ``None`` = ``ignore_value``, if it
            is not in ``ids_of_values``.
        ignore_value: the id that means no label, in the result.
        report: where other values are counted.

    Returns:
        (H, W) uint8; ids that are neither a class nor ``ignore_value`` became ``ignore_value``.

    Raises:
        ImageReadError: the file is missing, broken, of another size, or no map of ids.
    """
    ids = read_label_map(file_name, expected_size=(height, width))
    if ids.shape != (height, width):
        raise ImageReadError(
            f"{file_name}: found a semantic map of {ids.shape[1]}x{ids.shape[0]}, expected "
            f"{width}x{height} as the image (width x height)"
        )
    if ids_of_values is None and ignored_values is None:
        return _ignore_unknown(ids, num_classes, ignore_value, report, file_name)
    classes = _classes_of_values(ids, ids_of_values, ignored_values, ignore_value)
    return _ignore_unknown(classes, num_classes, ignore_value, report, file_name, found_as=ids)


def checked_ids(name: str, ids: Mapping[Any, Any]) -> tuple[tuple[int, int], ...]:
    """``SEM_SEG_IDS`` as (value in the file, class id) pairs.

    Raises:
        ValueError: it is no mapping of whole numbers 0..65535 to class ids 0..254.
    """
    good = isinstance(ids, Mapping) and all(
        _is_in(value, _MAX_VALUE) and _is_in(class_id, 254) for value, class_id in ids.items()
    )
    if not good:
        raise ValueError(
            f"Data set {name!r}: {IDS_KEY}: found {ids!r}, expected value in the maps: class id "
            "(0 to 254), such as {0: 0, 255: 1}"
        )
    return tuple(ids.items())


def checked_ignore(name: str, ignore: Any) -> tuple[int, ...]:
    """``SEM_SEG_IGNORE``, a number or several, as a tuple.

    Raises:
        ValueError: another thing than whole numbers 0..65535.
    """
    values = ignore if isinstance(ignore, list | tuple) else (ignore,)
    if not all(_is_in(value, _MAX_VALUE) for value in values):
        raise ValueError(
            f"Data set {name!r}: {IGNORE_KEY}: found {ignore!r}, expected one or more values of "
            f"the maps, 0 to {_MAX_VALUE}"
        )
    return tuple(values)


def _is_in(value: Any, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= largest


def sem_seg_from_annotations(
    annotations: Sequence[Mapping[str, Any]],
    height: int,
    width: int,
    *,
    ignore_value: int = 255,
    report: ProblemReport = DATA_REPORT,
    where: str = "annotations",
) -> np.ndarray:
    """Derive the semantic map from the masks of an image's objects.

    An object's pixels get its category + 1; where objects of different classes overlap, the smaller
    one wins, because it would vanish otherwise. Crowd regions and the boxes of objects without a
    usable mask are ignored, as far as no mask covers them. All else is background, 0.

    Args:
        annotations: in Detectron2's format, for all objects of the image.
        height: of the image.
        width: of the image.
        ignore_value: the label of ignored pixels.
        report: where undecodable masks are counted.
        where: names the image in such a message.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: a category does not fit below ``ignore_value``.
    """
    # Column-major like pycocotools' masks, so that painting runs through both in memory order.
    sem_seg = np.zeros((height, width), dtype=np.uint8, order="F")
    crowds: list[dict[str, Any]] = []
    rles: list[dict[str, Any]] = []
    labels: list[int] = []
    for index, annotation in enumerate(annotations):
        rle = annotation_rle(annotation, height, width, report, f"{where}: object {index}")
        if rle is None:
            paint_box(sem_seg, annotation, ignore_value)
        elif annotation.get("iscrowd", 0):
            crowds.append(rle)
        else:
            rles.append(rle)
            labels.append(annotation["category_id"] + 1)
    if labels and not 0 < min(labels) <= max(labels) < 255:
        raise ValueError(f"{where}: category_id: found {max(labels) - 1}, expected 0 to 253")
    if crowds:
        sem_seg[decode(mask_util.merge(crowds))] = ignore_value
    # One by one: under NumPy 2, pycocotools' area of a list stops at 255 masks.
    order = np.argsort([-int(mask_util.area(rle)) for rle in rles], kind="stable")
    # Neighbours of one class are merged as run lengths: one class needs one decoding in all.
    for label, group in itertools.groupby(order, key=lambda i: labels[i]):
        np.copyto(sem_seg, label, where=decode(mask_util.merge([rles[i] for i in group])))
    return np.ascontiguousarray(sem_seg)


def annotation_rle(
    annotation: Mapping[str, Any],
    height: int,
    width: int,
    report: ProblemReport,
    where: str,
) -> dict[str, Any] | None:
    """An annotation's mask as a checked RLE; ``None``, and counted, if it cannot be used."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return None
    try:
        return to_rle(segmentation, height, width)
    except MaskError as error:
        report.add(MASK_NOT_DECODED, where, str(error))
        return None


def paint_box(canvas: np.ndarray, annotation: Mapping[str, Any], value: int) -> None:
    """Fill every pixel that the annotation's box touches, in place. ``canvas`` is (H, W)."""
    height, width = canvas.shape
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    x1, y1 = np.floor(box[:2]).astype(int)
    x2, y2 = np.ceil(box[2:]).astype(int)
    canvas[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)] = value


def _classes_of_values(
    values: np.ndarray,
    ids_of_values: Mapping[int, int] | None,
    ignored_values: int | Sequence[int] | None,
    ignore_value: int,
) -> np.ndarray:
    """(H, W) values of a file -> (H, W) int64 class ids; -1 for values without a meaning."""
    table = np.arange(_MAX_VALUE + 2) if ids_of_values is None else np.full(_MAX_VALUE + 2, -1)
    table[[ignore_value, _MAX_VALUE + 1]] = -1  # the last one stands for all that is outside
    for value, class_id in (ids_of_values or {}).items():
        table[value] = class_id
    if ignored_values is None:
        ignored_values = () if ignore_value in (ids_of_values or {}) else (ignore_value,)
    table[np.atleast_1d(ignored_values).astype(np.int64)] = ignore_value
    return table[np.where((values < 0) | (values > _MAX_VALUE), _MAX_VALUE + 1, values)]


def _ignore_unknown(
    ids: np.ndarray,
    num_classes: int,
    ignore_value: int,
    report: ProblemReport,
    where: str,
    found_as: np.ndarray | None = None,
) -> np.ndarray:
    """(H, W) integers -> (H, W) uint8 with unknown ids set to ``ignore_value``, counted.

    ``found_as`` (H, W) are the values that the ids stand for in the file, if they are others.
    """
    unknown = (ids != ignore_value) & ((ids >= num_classes) | (ids < 0))
    if unknown.any():
        values = (ids if found_as is None else found_as)[unknown]
        found, counts = np.unique(values, return_counts=True)
        pixels = ", ".join(map(str, counts[:10]))
        report.add(
            UNKNOWN_IDS,
            where,
            f"found ids {found[:10].tolist()} in {counts.sum()} pixels, expected "
            f"0..{num_classes - 1} or {ignore_value} (pixels of each: {pixels}). If they are "
            f"classes, set {IDS_KEY} of the data set, such as {{{found[0]}: 1}}",
        )
        ids = np.where(unknown, ignore_value, ids)
    return ids.astype(np.uint8, copy=False)
