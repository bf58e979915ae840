"""Semantic maps of whole images: read from a PNG, or derived from the objects' masks.

Both the mapper and the evaluator use them, so that training and evaluation see the same labels.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from d2_multitask.data.io import ImageReadError, read_label_map
from d2_multitask.data.labels.base import (
    BAD_MAP,
    IGNORE_VALUE,
    MAX_ONE_CLASS,
    MapLabel,
    Record,
    ignore_unknown,
    name_of,
    size_of,
    spread,
)
from d2_multitask.data.labels.masks import MaskError, decode, to_rle
from d2_multitask.data.problems import DATA_REPORT, ProblemReport

IDS_KEY, IGNORE_KEY = "SEM_SEG_IDS", "SEM_SEG_IGNORE"  # in YAML; in dicts in lower case
_MAX_VALUE = 65535  # of a 16-bit file
MASK_NOT_DECODED = "mask that cannot be decoded, its box is ignored for segmentation"


class SemSegLabel(MapLabel):
    """``sem_seg``: class ids, ``ignore_value`` = no label.

    From ``sem_seg_file_name`` (a PNG; if it holds other values than class ids, with
    ``sem_seg_ids``, value -> id, and ``sem_seg_ignore``, value or values without a label),
    ``sem_seg_segments`` (masks with class ids, painted in their order) or, with
    ``sem_seg_from_annotations``, the objects' masks.
    """

    key = "sem_seg"
    description = "semantic maps"
    fields = ("sem_seg_file_name", "sem_seg_segments")
    names_key = "stuff_classes"
    size_key = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"

    def __init__(self, num_classes: int = IGNORE_VALUE, ignore_value: int = IGNORE_VALUE) -> None:
        """
        Raises:
            ValueError: the ids do not fit into 8 bits, in which they would be others.
        """
        super().__init__(num_classes)
        self.ignore_value = self.background = ignore_value
        if not (_is_in(ignore_value, 255) and num_classes <= 256):
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD: found NUM_CLASSES {num_classes} and IGNORE_VALUE "
                f"{ignore_value}, expected at most 256 classes, and an ignored id of 0 to 255"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SemSegLabel:
        """See `Label`."""
        return cls(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)

    def has(self, record: Record) -> bool:
        """Also where the map is derived from objects."""
        derived = record.get("sem_seg_from_annotations", False) and "annotations" in record
        return derived or any(map(record.get, self.fields))

    def read(self, record: Record, report: ProblemReport = DATA_REPORT) -> np.ndarray | None:
        """See `MapLabel`."""
        if record.get("sem_seg_file_name"):
            return self._read_file(record, report)
        if "sem_seg_segments" in record:
            return super().read(record, report)
        if not self.has(record):
            return None
        ids = sem_seg_from_annotations(
            record["annotations"],
            *size_of(record),
            ignore_value=self.ignore_value,
            report=report,
            where=name_of(record),
        )
        return ignore_unknown(ids, self, report, name_of(record))

    def _read_file(self, record: Record, report: ProblemReport) -> np.ndarray | None:
        file_name, size = str(record["sem_seg_file_name"]), size_of(record)
        try:
            values = read_label_map(file_name, expected_size=size)
        except ImageReadError as error:
            report.add(BAD_MAP.format(self.description), file_name, str(error))
            return None
        if values.shape != size:
            details = f"found {values.shape[1]}x{values.shape[0]}, expected {size[1]}x{size[0]}"
            details += " as the image (width x height)"
            report.add(BAD_MAP.format(self.description), file_name, details)
            return None
        ids, ignored = record.get("sem_seg_ids"), record.get("sem_seg_ignore")
        if ids is None and ignored is None:
            return ignore_unknown(values, self, report, file_name)
        classes = _classes_of_values(values, ids, ignored, self.ignore_value)
        return ignore_unknown(classes, self, report, file_name, found_as=values)

    def check(self, name: str, records: Sequence[Record]) -> None:
        """Also one value means no label to the network and to the metric."""
        found = MetadataCatalog.get(name).get("ignore_label")
        if found is not None and found != self.ignore_value:
            if any(any(map(record.get, self.fields)) for record in records):
                raise ValueError(
                    f"Dataset {name!r}: metadata 'ignore_label': found {found}, but "
                    f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {self.ignore_value}; set IGNORE_VALUE to "
                    f"{found}. If the maps hold another value where nothing is labelled, set "
                    f"{IGNORE_KEY} of the dataset (in dicts {IGNORE_KEY.lower()}), such as "
                    f"[{self.ignore_value}]"
                )
        super().check(name, records)

    def check_classes(self, name: str, records: Sequence[Record]) -> None:
        """Names that are not those of the ids in the map files must not be counted.

        Only where their number is not the network's: is the network wrong, or are the names? The
        ids of a few maps are compared with the names.
        """
        names = MetadataCatalog.get(name).get("stuff_classes")
        files = [r for r in records if r.get("sem_seg_file_name")]
        if files and names is not None and len(names) != self.num_classes:
            self._check_names(name, list(names), files)
        super().check_classes(name, records)

    def _check_names(self, name: str, names: list[str], records: Sequence[Record]) -> None:
        ids: set[int] = set()
        for record in spread(records, MAX_ONE_CLASS):
            with contextlib.suppress(ImageReadError):
                ids.update(np.unique(read_label_map(record["sem_seg_file_name"])).tolist())
        translation = records[0].get("sem_seg_ids")
        if translation is not None:
            ids = {translation[value] for value in ids if value in translation}
        else:
            ignored = np.atleast_1d(records[0].get("sem_seg_ignore", ())).tolist()
            ids -= {self.ignore_value, *ignored}
        is_guessed = getattr(DatasetCatalog.data.get(name), "stuff_classes", names) is None
        if not is_guessed and max(ids, default=0) < len(names):
            return
        source = "the background and the JSON's categories" if is_guessed else "as registered"
        raise ValueError(
            f"Dataset {name!r}: stuff_classes: found {len(names)} names, {source}, but expected "
            f"{self.num_classes} as in the network, and the maps hold the ids "
            f"{_short(sorted(ids))}. Name i must be that of id i: set STUFF_CLASSES of the dataset "
            f"to the names of the ids, or {IDS_KEY} to a map from the values to the numbers of "
            f"these names: {_short(names)}; then set MODEL.SEM_SEG_HEAD.NUM_CLASSES to the number "
            "of names"
        )

    def advice(self, values: Sequence[int]) -> str:
        """See `MapLabel`."""
        ids = {value: class_id for class_id, value in enumerate(values[:10])}
        return (
            f"If they are classes, set {IDS_KEY} of the dataset (in dicts {IDS_KEY.lower()}), such "
            f"as {ids}; if they mean no label, {IGNORE_KEY}, such as {list(values[1:10])}"
        )


def load_sem_seg(
    record: Record,
    height: int,
    width: int,
    *,
    num_classes: int,
    ignore_value: int = IGNORE_VALUE,
    report: ProblemReport = DATA_REPORT,
) -> np.ndarray | None:
    """The semantic map of one image of (height, width), see `SemSegLabel` and `MapLabel.read`."""
    sized = {**record, "height": height, "width": width}
    return SemSegLabel(num_classes, ignore_value).read(sized, report)


def sem_seg_map(record: Record, report: ProblemReport = DATA_REPORT) -> np.ndarray | None:
    """(h, w) uint8 at the original size, 255 = no label; ``None`` if there is none."""
    return SemSegLabel().read(record, report)


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
            f"Dataset {name!r}: {IDS_KEY}: found {ids!r}, expected value in the maps: class id "
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
            f"Dataset {name!r}: {IGNORE_KEY}: found {ignore!r}, expected one or more values of "
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


def _short(values: Sequence[Any]) -> str:
    return f"{list(values[:20])}" + (f" and {len(values) - 20} more" if len(values) > 20 else "")
