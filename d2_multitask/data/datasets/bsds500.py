"""BSDS500 (Arbelaez et al., TPAMI 2011): photographs that several people divided into segments.

BSDS500/data/images/{train,val,test}/<id>.jpg
BSDS500/data/groundTruth/{train,val,test}/<id>.mat
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.io import loadmat

from d2_multitask.data.datasets.catalog import load_dataset, register
from d2_multitask.data.datasets.folders import ImageFolder

SPLITS = ("train", "val", "test")
_FIELDS = ("Segmentation", "Boundaries")


class Partition(NamedTuple):
    """An image divided into segments.

    Attributes:
        segments: (H, W) integers >= 0, the number of each pixel's segment.
        boundary: (H, W) bool, lines between segments.
    """

    segments: np.ndarray
    boundary: np.ndarray


@dataclass(frozen=True)
class Bsds500:
    """What ``DatasetCatalog`` holds for a split; calling it lists the images.

    Attributes:
        name: registered name, for messages.
        root: the folder ``BSDS500``.
        split: one of `SPLITS`.
    """

    name: str
    root: str
    split: str

    def __call__(self) -> list[dict[str, Any]]:
        """``file_name``, ``image_id`` (such as ``100007``), ``partitions_file_name``.

        Raises:
            ValueError: a folder or a ground truth is missing; names it.
        """
        labels = Path(self.root, "data", "groundTruth", self.split)
        records = ImageFolder(self.name, str(Path(self.root, "data", "images", self.split)))()
        for record in records:
            record["image_id"] = Path(record["image_id"]).stem
            file = labels / f"{record['image_id']}.mat"
            if not file.is_file():
                raise ValueError(
                    f"Dataset {self.name!r}: found no file {file}, expected the ground truth of "
                    f"{record['file_name']}; {self.root} should hold the files of BSDS500 as "
                    "docs/datasets.md shows them"
                )
            record["partitions_file_name"] = str(file)
        return records


def register_bsds500(root: str | os.PathLike[str]) -> None:
    """Register ``bsds500_{train,val,test}``, whose files are below ``root/BSDS500``."""
    for split in SPLITS:
        dataset = Bsds500(f"bsds500_{split}", os.path.join(root, "BSDS500"), split)
        register(dataset.name, dataset, evaluator_type="image_folder")


def load_partitioned(name: str) -> list[dict[str, Any]]:
    """The dicts of a registered dataset, each with ``partitions_file_name``.

    Raises:
        ValueError: see `load_dataset`, or it is another kind of dataset.
    """
    records = load_dataset(name)
    if "partitions_file_name" not in records[0]:
        raise ValueError(
            f"--dataset: found {name!r}, expected one that several people divided into segments, "
            "such as 'bsds500_test'"
        )
    return records


def read_mat(file: str | Path) -> dict[str, Any]:
    """The variables of a MATLAB file, up to version 7.

    Raises:
        ValueError: the file is missing or damaged, or of another version; names it.
    """
    try:
        found = loadmat(file)
    except MemoryError:
        raise
    except Exception as error:  # of damaged files: zlib.error, TypeError, IndexError, and more
        raise ValueError(f"{file}: cannot be read as a MATLAB file: {error}") from error
    return {key: value for key, value in found.items() if not key.startswith("__")}


def read_partitions(file: str | Path) -> list[Partition]:
    """How each of several people divided an image.

    Args:
        file: of ``groundTruth``; segments are numbered from 1.

    Raises:
        ValueError: the file is missing or damaged, or holds something else; names it.
    """
    found = read_mat(file)
    people = found.get("groundTruth", np.empty(0)).ravel()
    if not len(people):
        raise ValueError(
            f"{file}: found the variables {sorted(found)}, expected a cell 'groundTruth' with a "
            "segmentation of each person"
        )
    partitions = [_partition(file, number, person) for number, person in enumerate(people, 1)]
    shapes = sorted({array.shape for partition in partitions for array in partition})
    if len(shapes) > 1 or len(shapes[0]) != 2:
        raise ValueError(f"{file}: found maps of the shapes {shapes}, expected (H, W) of the image")
    return partitions


def _partition(file: str | Path, number: int, person: Any) -> Partition:
    fields = getattr(getattr(person, "dtype", None), "names", None) or ()
    if not set(_FIELDS).issubset(fields):
        raise ValueError(
            f"{file}: groundTruth{{{number}}}: found the fields {list(fields)}, expected "
            f"{' and '.join(_FIELDS)}"
        )
    segments, boundary = (np.asarray(person[field].item()) for field in _FIELDS)
    return Partition(segments.astype(np.int64), boundary != 0)
