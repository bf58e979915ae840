"""Labels by class: semantic maps, human parts, and the classes that an image shows.

Detectron2's own `DatasetMapper` and `SemSegEvaluator` read ``sem_seg_file_name``. Maps that are
derived from masks have no file, and files with other values than class ids mean others to
Detectron2. For both, the path is ``sem-seg://<dataset>/<number of the image>``, at which its
`PathManager` gets a PNG of class ids that is made when it is opened. Our own mapper and evaluators
take the masks or the file itself.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import IO, Any, ClassVar

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from PIL import Image
from torch import Tensor

from d2_multitask.data.io import ImageReadError, read_label_map
from d2_multitask.data.labels.base import (
    IGNORE_VALUE,
    MAX_ONE_CLASS,
    Label,
    MapLabel,
    Record,
    is_in,
    name_of,
    size_of,
    spread,
)
from d2_multitask.data.labels.masks import decode, rle_or_report
from d2_multitask.data.problems import DATA_REPORT, ProblemReport

MASK_NOT_DECODED = "mask that cannot be decoded, its box is ignored for segmentation"
NUM_IMAGE_LABELS = 59  # of PASCAL in Detail

SEM_SEG_PREFIX = "sem-seg://"
SEM_SEG_SOURCE = "sem_seg_source"
"""Key of a dict: the file behind a ``sem-seg://`` path, ``None`` if it is derived from masks."""


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
        if not (is_in(ignore_value, 255) and num_classes <= 256):
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
        if record.get("sem_seg_file_name") or "sem_seg_segments" in record:
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
        return self.known(ids, report, name_of(record))

    def check(self, name: str, records: Sequence[Record]) -> None:
        """Also one value means no label to the network and to the metric."""
        found = MetadataCatalog.get(name).get("ignore_label")
        if found is not None and found != self.ignore_value:
            if any(any(map(record.get, self.fields)) for record in records):
                raise ValueError(
                    f"Dataset {name!r}: metadata 'ignore_label': found {found}, but "
                    f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {self.ignore_value}; set IGNORE_VALUE to "
                    f"{found}. If the maps hold another value where nothing is labelled, set "
                    f"SEM_SEG_IGNORE of the dataset (in dicts sem_seg_ignore), such as "
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
            f"to the names of the ids, or SEM_SEG_IDS to a map from the values to the numbers of "
            f"these names: {_short(names)}; then set MODEL.SEM_SEG_HEAD.NUM_CLASSES to the number "
            "of names"
        )


class PartSegLabel(MapLabel):
    """``part_seg``: 0 = background, 255 = not labelled (a person without parts)."""

    key = "part_seg"
    description = "human parts"
    fields = ("part_seg_file_name", "part_seg_segments")
    names_key = "part_classes"
    size_key = "MODEL.PARTS_HEAD.NUM_CLASSES"
    # Images without people are common.
    one_class_is_odd: ClassVar[bool] = False
    is_mirrored = False  # training images may be

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Label:
        """See `Label`."""
        label = super().from_config(cfg)
        label.is_mirrored = cfg.INPUT.RANDOM_FLIP != "none"
        return label

    def check_classes(self, name: str, records: Sequence[Record]) -> None:
        """Also no part has a side if images are mirrored: ids do not change sides."""
        super().check_classes(name, records)
        names = MetadataCatalog.get(name).get(self.names_key) or ()
        sides = [x for x in names if "left" in x and x.replace("left", "right") in names]
        if sides and self.is_mirrored:
            raise ValueError(
                f"Dataset {name!r}: part_classes: found {sides} beside their right sides, expected "
                "one class for both sides, because training images are mirrored: give both the "
                "same id with PART_SEG_IDS, or set INPUT.RANDOM_FLIP to 'none'"
            )


class ImageLabels(Label):
    """``image_labels``: (num_classes,) int64, 1 = the network input shows the class."""

    key = "image_labels"
    description = "image labels"
    fields = ("image_labels",)
    names_key = "stuff_classes"
    size_key = "MODEL.CLASSIFICATION_HEAD.NUM_CLASSES"

    def __init__(self, num_classes: int = NUM_IMAGE_LABELS) -> None:
        super().__init__(num_classes)

    def read(self, record: Record, report: ProblemReport = DATA_REPORT) -> np.ndarray | None:
        """Classes that the whole image shows.

        Raises:
            ValueError: a class id outside of 0..num_classes - 1.
        """
        if "image_labels" not in record:
            return None
        present = np.asarray(record["image_labels"], dtype=np.int64)
        if len(present) and not 0 <= present.min() <= present.max() < self.num_classes:
            raise ValueError(
                f"{name_of(record)}: image_labels: found {present.tolist()}, expected ids of 0.."
                f"{self.num_classes - 1}"
            )
        labels = np.zeros(self.num_classes, dtype=np.int64)
        labels[present] = 1
        return labels

    def load(
        self, record: Record, transforms: T.TransformList, image_size: tuple[int, int]
    ) -> Tensor | None:
        """Classes of the image; where it was cropped, only those of which a pixel is left.

        The network cannot know what was cut away. Without a semantic map the image's own labels
        are the best that there is.
        """
        labels = self.read(record)
        if labels is None:
            return None
        if not _shows_all(record, transforms, image_size):
            sem_seg = SemSegLabel().read(record)
            if sem_seg is not None:
                left = np.unique(transforms.apply_segmentation(sem_seg))
                cut_away = np.setdiff1d(np.unique(sem_seg), left)
                labels[cut_away[cut_away < len(labels)]] = 0
        return torch.from_numpy(labels)


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
    if not annotation.get("segmentation"):
        return None
    return rle_or_report(
        annotation["segmentation"], height, width, report, where, kind=MASK_NOT_DECODED
    )


def paint_box(canvas: np.ndarray, annotation: Mapping[str, Any], value: int) -> None:
    """Fill every pixel that the annotation's box touches, in place. ``canvas`` is (H, W)."""
    height, width = canvas.shape
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    x1, y1 = np.floor(box[:2]).astype(int)
    x2, y2 = np.ceil(box[2:]).astype(int)
    canvas[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)] = value


def _short(values: Sequence[Any]) -> str:
    return f"{list(values[:20])}" + (f" and {len(values) - 20} more" if len(values) > 20 else "")


def _shows_all(record: Record, transforms: T.TransformList, image_size: tuple[int, int]) -> bool:
    """Whether the corners of the original are still in the image, up to a pixel."""
    height, width = size_of(record)
    corners = np.array([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]])
    moved = np.asarray(transforms.apply_coords(corners))
    return bool(((moved >= -1) & (moved <= np.array(image_size[::-1]) + 1)).all())


def open_as_class_ids(name: str, dataset_dicts: list[dict[str, Any]]) -> None:
    """Give derived maps, and files of other values, a path that opens as a map of class ids.

    The dicts are all of the dataset's, in order; they are changed in place.
    """
    for number, record in enumerate(dataset_dicts):
        has_values = "sem_seg_ids" in record or "sem_seg_ignore" in record
        if has_values or record.get("sem_seg_from_annotations"):
            record[SEM_SEG_SOURCE] = record.get("sem_seg_file_name")
            record["sem_seg_file_name"] = f"{SEM_SEG_PREFIX}{name}/{number}"


def from_source(record: dict[str, Any]) -> dict[str, Any]:
    """A dict with the file itself, or without one if its map is derived from masks."""
    if SEM_SEG_SOURCE not in record:
        return record
    record = dict(record)
    record["sem_seg_file_name"] = record.pop(SEM_SEG_SOURCE)
    return {k: v for k, v in record.items() if k != "sem_seg_file_name" or v is not None}


@functools.lru_cache(maxsize=4)
def _records(name: str, load: Any) -> list[dict[str, Any]]:
    return load()  # `load` is in the key: a name may be registered anew


class _SemSegFiles(PathHandler):
    def _get_supported_prefixes(self) -> list[str]:
        return [SEM_SEG_PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> IO[bytes]:
        if mode != "rb":
            raise ValueError(f"{path}: found mode {mode!r}, expected 'rb': these maps are made")
        name, _, number = path.removeprefix(SEM_SEG_PREFIX).rpartition("/")
        record = from_source(_records(name, DatasetCatalog[name])[int(number)])
        ids = SemSegLabel(len(MetadataCatalog.get(name).stuff_classes)).read(record)
        if ids is None:
            raise ValueError(f"{record['file_name']}: has no semantic map that can be used")
        file = io.BytesIO()
        Image.fromarray(ids).save(file, "PNG")
        file.seek(0)
        return file

    def _exists(self, path: str, **_: Any) -> bool:
        return path.removeprefix(SEM_SEG_PREFIX).rpartition("/")[0] in DatasetCatalog

    _isfile = _exists


PathManager.register_handler(_SemSegFiles())
