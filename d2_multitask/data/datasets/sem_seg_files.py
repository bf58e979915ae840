"""Semantic maps that Detectron2 opens like files, ``sem-seg://<dataset>/<number of the image>``.

Detectron2's `DatasetMapper` and `SemSegEvaluator` read ``sem_seg_file_name``. Maps that are derived
from masks have no file, and files with other values than class ids mean others to Detectron2. For
both, its `PathManager` gets a PNG of class ids that is made when it is opened. Our own mapper and
evaluators take the masks or the file itself.
"""

from __future__ import annotations

import functools
import io
from typing import IO, Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from PIL import Image

from d2_multitask.data.labels.sem_seg import load_sem_seg

PREFIX = "sem-seg://"
SOURCE = "sem_seg_source"
"""Key of a dict: the file behind a ``sem-seg://`` path, ``None`` if it is derived from masks."""


def open_as_class_ids(name: str, dataset_dicts: list[dict[str, Any]]) -> None:
    """Give derived maps, and files of other values, a path that opens as a map of class ids.

    Args:
        name: of the registered dataset.
        dataset_dicts: all its dicts, in order; changed in place.
    """
    for number, record in enumerate(dataset_dicts):
        has_values = "sem_seg_ids" in record or "sem_seg_ignore" in record
        if has_values or record.get("sem_seg_from_annotations"):
            record[SOURCE] = record.get("sem_seg_file_name")
            record["sem_seg_file_name"] = f"{PREFIX}{name}/{number}"


def from_source(record: dict[str, Any]) -> dict[str, Any]:
    """A dict with the file itself, or without one if its map is derived from masks."""
    if SOURCE not in record:
        return record
    record = dict(record)
    record["sem_seg_file_name"] = record.pop(SOURCE)
    return {k: v for k, v in record.items() if k != "sem_seg_file_name" or v is not None}


@functools.lru_cache(maxsize=4)
def _records(name: str, load: Any) -> list[dict[str, Any]]:
    return load()  # `load` is in the key: a name may be registered anew


class _SemSegFiles(PathHandler):
    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> IO[bytes]:
        if mode != "rb":
            raise ValueError(f"{path}: found mode {mode!r}, expected 'rb': these maps are made")
        name, _, number = path.removeprefix(PREFIX).rpartition("/")
        record = from_source(_records(name, DatasetCatalog[name])[int(number)])
        classes = MetadataCatalog.get(name).stuff_classes
        height, width = int(record["height"]), int(record["width"])
        ids = load_sem_seg(record, height, width, num_classes=len(classes))
        if ids is None:
            raise ValueError(f"{record['file_name']}: has no semantic map that can be used")
        file = io.BytesIO()
        Image.fromarray(ids).save(file, "PNG")
        file.seek(0)
        return file

    def _exists(self, path: str, **_: Any) -> bool:
        return path.removeprefix(PREFIX).rpartition("/")[0] in DatasetCatalog

    _isfile = _exists


PathManager.register_handler(_SemSegFiles())
