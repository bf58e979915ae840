"""One kind of label: which images have it, how it is loaded, moved with the image and checked.

A head names what it learns from (`TaskHead.labels`), and the mapper loads the labels of the heads
of ``MODEL.TASKS``. A new kind of label is a subclass of `Label`, or of `MapLabel` if it gives each
pixel a class; nothing else needs to know it.
"""

from __future__ import annotations

import functools
import logging
import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from torch import Tensor

from d2_multitask.data.io import ImageReadError, read_image, read_label_map
from d2_multitask.data.labels.masks import paint_segments
from d2_multitask.data.problems import DATA_REPORT, ProblemReport

logger = logging.getLogger(__name__)

IGNORE_VALUE = 255
_MAX_VALUE = 65535  # of a 16-bit file
BAD_MAP = "{}: map that cannot be used, the image is not used for them"
UNKNOWN_IDS = "{}: map with unknown ids, those pixels are ignored"

# So many maps tell whether all of a dataset's cannot be used; only a suspicion reads so many.
MAX_UNUSABLE = 200
# So many usable maps, if they show one class only.
MAX_ONE_CLASS = 20

Record = Mapping[str, Any]
"""One dict of a dataset, in Detectron2's format."""


class Label:
    """Base class of all labels.

    Attributes:
        key: of the label in ``batched_inputs``.
        description: in words, for messages.
        fields: of a dataset's dicts, any of which holds the label. Is ``<key>_file_name`` among
            them, an entry of ``DATASETS.REGISTER`` may give the folder of the files as
            ``<KEY>_ROOT``.
        names_key: metadata of a dataset with the names of the classes; "" if there are none. In
            ``DATASETS.REGISTER`` it is written in capitals.
        size_key: config key of the number of classes; "" if there is none.
        num_classes: of the network.
    """

    key: ClassVar[str]
    description: ClassVar[str]
    fields: ClassVar[tuple[str, ...]] = ()
    names_key: ClassVar[str] = ""
    size_key: str = ""

    def __init__(self, num_classes: int = IGNORE_VALUE) -> None:
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Label:
        """The label as the network of a config learns it."""
        return cls(config_value(cfg, cls.size_key)) if cls.size_key else cls()

    def has(self, record: Record) -> bool:
        """Whether an image has this label."""
        return any(field in record for field in self.fields)

    def read(self, record: Record, report: ProblemReport = DATA_REPORT) -> np.ndarray | None:
        """The label of one image at its original size, as evaluation and pictures want it.

        Its original size is in the record's ``height`` and ``width``. What cannot be used
        is counted.

        Returns:
            An array; ``None`` if the image has no label that can be used.
        """
        return None

    def load(
        self, record: Record, transforms: T.TransformList, image_size: tuple[int, int]
    ) -> Tensor | None:
        """The label of one image for training, moved as the image was moved.

        Args:
            record: with ``height`` and ``width`` of the original image.
            transforms: what was done to the image.
            image_size: (H, W) after them.

        Returns:
            ``None`` if the image does not have the label, or it cannot be used (which is counted
            in the data report).

        Raises:
            ImageReadError: the image is not to be used at all.
        """
        return None

    def load_confidence(self, record: Record, transforms: T.TransformList) -> Tensor | None:
        """How sure the label of `load` is, (H, W) float32 in [0, 1]; ``None`` = it is true."""
        return None

    def check(self, name: str, records: Sequence[Record]) -> None:
        """Look at the labels of a dataset before training and evaluation.

        Raises:
            ValueError: they would teach nothing, or the wrong thing; names dataset, found, expected
                and the key to set.
        """

    def check_classes(self, name: str, records: Sequence[Record]) -> None:
        """The dataset has as many classes as the network, if it names them.

        Raises:
            ValueError: it has not.
        """
        if self.names_key and MetadataCatalog.get(name).get(self.names_key) is not None:
            self.class_names(name)

    def class_names(self, name: str) -> list[str]:
        """The names of a dataset's classes.

        Raises:
            ValueError: there are none, or their number is not the network's.
        """
        names = list(MetadataCatalog.get(name).get(self.names_key) or ())
        if not names:
            raise ValueError(
                f"Dataset {name!r}: metadata {self.names_key!r}: found nothing, expected the names "
                f"of its {self.num_classes} classes; set {self.names_key.upper()} of the dataset"
            )
        if len(names) != self.num_classes:
            raise ValueError(
                f"Dataset {name!r}: {self.names_key}: found {len(names)}, {names}, expected "
                f"{self.num_classes} as in the network; set {self.size_key} to {len(names)}"
            )
        return names


class MapLabel(Label):
    """A class for each pixel of the image.

    Attributes:
        ignore_value: class id that means no label.
        background: class of the pixels that no mask of ``<key>_segments`` covers.
        one_class_is_odd: maps of one class whose files hold other values are an error before
            training; otherwise a warning.
        values_are_ids: the values of files are class ids.
    """

    ignore_value: int = IGNORE_VALUE
    background: ClassVar[int] = 0
    one_class_is_odd: ClassVar[bool] = True
    values_are_ids: ClassVar[bool] = True

    def read(self, record: Record, report: ProblemReport = DATA_REPORT) -> np.ndarray | None:
        """The map of one image, before augmentation.

        By default from a PNG, ``<key>_file_name``, or from masks that are painted in their order,
        ``<key>_segments``. The PNG holds class ids, or with ``<key>_ids`` (value -> id) and
        ``<key>_ignore`` (value or values without a label) other values.

        Args:
            record: with ``height`` and ``width`` of the original image.
            report: where maps that cannot be used, and unknown ids, are counted.

        Returns:
            (h, w) uint8; ids that are neither a class nor ``ignore_value`` became ``ignore_value``.
            ``None`` if the image has no map that can be used.
        """
        if record.get(f"{self.key}_file_name"):
            return self._read_file(record, report)
        if f"{self.key}_segments" not in record:
            return None
        where = name_of(record)
        segments, size = record[f"{self.key}_segments"], size_of(record)
        ids = paint_segments(segments, *size, self.background, report=report, where=where)
        return self.known(ids, report, where)

    def _read_file(self, record: Record, report: ProblemReport) -> np.ndarray | None:
        file_name, size = str(record[f"{self.key}_file_name"]), size_of(record)
        details = ""
        try:
            values = read_label_map(file_name, expected_size=size)
            if values.shape != size:
                details = f"found {values.shape[1]}x{values.shape[0]}, expected {size[1]}x{size[0]}"
                details += " as the image (width x height)"
        except ImageReadError as error:
            details = str(error)
        if details:
            report.add(BAD_MAP.format(self.description), file_name, details)
            return None
        ids, ignored = record.get(f"{self.key}_ids"), record.get(f"{self.key}_ignore")
        if ids is None and ignored is None:
            return self.known(values, report, file_name)
        classes = _classes_of_values(values, ids, ignored, self.ignore_value)
        return self.known(classes, report, file_name, found_as=values)

    def known(
        self,
        ids: np.ndarray,
        report: ProblemReport,
        where: str,
        found_as: np.ndarray | None = None,
    ) -> np.ndarray:
        """Set ids that are neither a class nor ``ignore_value`` to ``ignore_value``, counted.

        ``ids`` are (h, w) integers, and ``found_as`` the values that they stand for in the
        file, if these are others.

        Returns:
            (h, w) uint8.
        """
        unknown = (ids != self.ignore_value) & ((ids >= self.num_classes) | (ids < 0))
        if unknown.any():
            values = (ids if found_as is None else found_as)[unknown]
            found, counts = np.unique(values, return_counts=True)
            report.add(
                UNKNOWN_IDS.format(self.description),
                where,
                f"found ids {found[:10].tolist()} in {counts.sum()} pixels, expected "
                f"0..{self.num_classes - 1} or {self.ignore_value} (pixels of each: "
                f"{', '.join(map(str, counts[:10]))}). {self._advice([0, *found], found)}",
            )
            ids = np.where(unknown, self.ignore_value, ids)
        return ids.astype(np.uint8, copy=False)

    def load(
        self, record: Record, transforms: T.TransformList, image_size: tuple[int, int]
    ) -> Tensor | None:
        """(H, W) int64: regions are resized by nearest neighbors.

        Pixels below ``<key>_min_confidence`` have no label.
        """
        ids = self._sure(self.read(record), record)
        return None if ids is None else as_tensor(transforms.apply_segmentation(ids))

    def _sure(self, ids: np.ndarray | None, record: Record) -> np.ndarray | None:
        """The map without the pixels below ``<key>_min_confidence``."""
        confidence = None if ids is None else self._read_confidence(record)
        if confidence is None:
            return ids
        unsure = confidence < 255 * record[f"{self.key}_min_confidence"]
        return np.where(unsure, np.uint8(self.ignore_value), ids)

    def load_confidence(self, record: Record, transforms: T.TransformList) -> Tensor | None:
        """See `Label`; from the PNG ``<key>_confidence_file_name``, 0 to 255."""
        values = self._read_confidence(record)
        if values is None:
            return None
        return torch.from_numpy(transforms.apply_segmentation(values).astype(np.float32) / 255)

    def _read_confidence(self, record: Record) -> np.ndarray | None:
        """(h, w) uint8."""
        file_name = record.get(f"{self.key}_confidence_file_name")
        if file_name is None:
            return None
        values = read_label_map(str(file_name), expected_size=size_of(record))
        if values.shape != size_of(record) or values.dtype != np.uint8:
            raise ImageReadError(
                f"{file_name}: found a map of {values.shape} and {values.dtype}, expected "
                f"{size_of(record)} (height, width) and 8 bits a pixel, 0 to 255"
            )
        return values

    def check(self, name: str, records: Sequence[Record]) -> None:
        """At least one map can be used, and the maps show several classes.

        One bad map is skipped later, but if there is no good one, or the values in the files are
        not class ids, a head would train on nothing, or on the wrong labels, without an error.
        Reads until a map shows two classes, which is nearly always the first.

        Raises:
            ValueError: names the first problem, the values and the key to set.
        """
        records = [r for r in records if any(r.get(field) for field in self.fields)]
        if not records:
            return
        report = ProblemReport(max_logged=1)
        seen, classes = self._sample(records, report)
        if not classes:
            first = f"  all pixels have the value {self.ignore_value}, no label"
            if any(f"{self.key}_min_confidence" in r for r in seen):
                first += ", or a confidence below TEACHER_THRESHOLDS: MAPS of the dataset; lower it"
            raise ValueError(
                f"Dataset {name!r}: {self.description}: none of its maps can be used "
                f"({min(len(records), MAX_UNUSABLE)} were read). The first problem:\n"
                f"{report.summary() or first}"
            )
        if len(classes) == 1 and self.num_classes > 1:
            self._check_values(name, seen, classes.pop())

    def _sample(
        self, records: Sequence[Record], report: ProblemReport
    ) -> tuple[list[Record], set[int]]:
        """Images with usable maps, and the classes that these show."""
        seen: list[Record] = []
        classes: set[int] = set()
        for record in spread(records, MAX_UNUSABLE):
            try:
                height, width = read_image(record["file_name"]).shape[:2]
            except ImageReadError:
                continue
            try:
                sized = {**record, "height": height, "width": width}
                ids = self.read(sized, report)
                sure = self._sure(ids, sized)
            except ImageReadError as error:
                kind = f"{self.description} that cannot be used"
                report.add(kind, str(record["file_name"]), str(error))
                continue
            if ids is None:
                continue
            seen.append(record)
            if (sure != self.ignore_value).any():
                classes |= set(np.unique(ids).tolist()) - {self.ignore_value}
            enough = self.num_classes < 2 or len(seen) >= MAX_ONE_CLASS
            if len(classes) > 1 or (classes and enough):
                break
        return seen, classes

    def _check_values(self, name: str, records: Sequence[Record], class_id: int) -> None:
        """All usable maps show one class: an error if most of them hold values that are ignored."""
        field = f"{self.key}_file_name"
        files = [str(r[field]) for r in records if self.values_are_ids and r.get(field)]
        pixels: Counter[int] = Counter()
        num_hiding = 0
        for file in files:
            values, counts = np.unique(read_label_map(file), return_counts=True)
            num_hiding += any(values != class_id)
            pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        message = (
            f"Dataset {name!r}: {self.description}: the maps that were read ({len(records)}) show "
            f"class {class_id} only, expected several"
        )
        if num_hiding:
            message += f". Found the values (value: pixels) {dict(sorted(pixels.items()))} in the "
            message += f"files, such as {files[0]}; all but those of class {class_id} are ignored. "
            message += self._advice(list(pixels), [v for v in sorted(pixels) if v != class_id])
        said = (f"{self.key}_ids", f"{self.key}_ignore")
        is_said = any(r.get(field) is not None for r in records for field in said)
        if num_hiding * 2 >= len(records) and self.one_class_is_odd and not is_said:
            raise ValueError(message)
        logger.warning(message)

    def _advice(self, values: Any, others: Any) -> str:
        """What to do about ``values`` of files of which some, ``others``, are not class ids."""
        ids = {value: class_id for class_id, value in enumerate(np.unique(values)[:10].tolist())}
        ignored, prefix = np.ravel(others)[:10].tolist(), self.key.upper()
        return (
            f"If they are classes, set {prefix}_IDS of the dataset (in dicts {self.key}_ids), such "
            f"as {ids}; if they mean no label, {prefix}_IGNORE, such as {ignored}"
        )


def all_labels() -> list[type[Label]]:
    """Every kind of label that is known, by the modules that are imported."""
    found, queue = [], [Label]
    while queue:
        queue += (subclasses := queue.pop(0).__subclasses__())
        found += subclasses
    return [label for label in found if hasattr(label, "key")]


def checked_ids(where: str, ids: Mapping[Any, Any] | None) -> tuple[tuple[int, int], ...] | None:
    """``<key>_ids`` as (value in the file, class id) pairs; ``None`` if they are not given.

    Raises:
        ValueError: it is no mapping of whole numbers 0..65535 to class ids 0..254.
    """
    if ids is None:
        return None
    good = isinstance(ids, Mapping) and all(
        is_in(value, _MAX_VALUE) and is_in(class_id, 254) for value, class_id in ids.items()
    )
    if not good:
        raise ValueError(
            f"{where}: found {ids!r}, expected value in the maps: class id (0 to 254), such as "
            "{0: 0, 255: 1}"
        )
    return tuple(ids.items())


def checked_ignore(where: str, ignore: Any) -> tuple[int, ...] | None:
    """``<key>_ignore``, a number or several, as a tuple; ``None`` if it is not given.

    Raises:
        ValueError: another thing than whole numbers 0..65535.
    """
    if ignore is None:
        return None
    values = ignore if isinstance(ignore, list | tuple) else (ignore,)
    if not all(is_in(value, _MAX_VALUE) for value in values):
        raise ValueError(
            f"{where}: found {ignore!r}, expected one or more values of the maps, 0 to {_MAX_VALUE}"
        )
    return tuple(values)


def is_in(value: Any, largest: int) -> bool:
    """Whether a value is a whole number of 0..largest."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= largest


def config_value(cfg: CfgNode, key: str) -> Any:
    """The value of a key such as ``"MODEL.PARTS_HEAD.NUM_CLASSES"``."""
    return functools.reduce(operator.getitem, key.split("."), cfg)


def as_tensor(ids: np.ndarray) -> Tensor:
    """(H, W) integers -> (H, W) int64."""
    return torch.from_numpy(ids.astype(np.int64))


def is_mirrored(transforms: T.Transform | T.TransformList) -> bool:
    """Whether left and right of a direction change sides: the determinant is negative.

    All transforms of this package and the geometric ones of Detectron2 are affine, so three points
    tell.
    """
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    origin, along_x, along_y = np.asarray(transforms.apply_coords(corners), dtype=np.float64)
    (a, b), (c, d) = along_x - origin, along_y - origin
    return a * d - b * c < 0


def spread(records: Sequence[Any], most: int) -> Iterator[Any]:
    """Up to ``most`` of them, from the first to the last in even steps."""
    number = min(len(records), most)
    return (records[i * len(records) // number] for i in range(number))


def size_of(record: Record) -> tuple[int, int]:
    """(h, w) of the original image."""
    return int(record["height"]), int(record["width"])


def name_of(record: Record) -> str:
    """The image, for messages."""
    return str(record.get("file_name", "image"))


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
