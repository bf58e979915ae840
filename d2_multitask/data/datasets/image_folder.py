"""A plain folder of images as a data set, for what needs no labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)

EVALUATOR_TYPE = "image_folder"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class ImageFolder:
    """What ``DatasetCatalog`` holds for a registered folder; calling it lists the folder.

    Attributes: as the arguments of `register_image_folder`.
    """

    name: str
    image_root: str
    image_range: tuple[int, int] | None = None

    def __call__(self) -> list[dict[str, Any]]:
        """List the images: ``file_name`` and ``image_id`` (path below the folder), no labels.

        Raises:
            ValueError: the folder does not exist, or holds no image (in the range).
        """
        root = Path(self.image_root)
        if not root.is_dir():
            raise ValueError(
                f"Data set {self.name!r}: found no folder {root}, expected a folder of images"
            )
        files = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
        images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise ValueError(
                f"Data set {self.name!r}: found {len(files)} files and no image in {root}, "
                f"expected files that end with one of {', '.join(IMAGE_SUFFIXES)}"
            )
        start, stop = self.image_range or (0, len(images))
        if stop > len(images):
            raise ValueError(
                f"Data set {self.name!r}: IMAGE_RANGE: found [{start}, {stop}], expected at most "
                f"{len(images)}, the number of images in {root}"
            )
        logger.info("%s: %d of %d images in %s", self.name, stop - start, len(images), root)
        return [
            {"file_name": str(root / path), "image_id": path.as_posix()}
            for path in images[start:stop]
        ]


def register_image_folder(
    name: str, image_root: str | os.PathLike[str], image_range: Sequence[int] | None = None
) -> None:
    """Register a folder of images, without any labels. Doing it again changes nothing.

    Args:
        name: for ``DATASETS.TRAIN`` and ``TEST``.
        image_root: the folder; images in folders below it count too.
        image_range: (start, stop): only these images, in the order of their names, counted from 0
            without ``stop``; ``None`` = all. It cuts a folder into fixed parts.

    Raises:
        ValueError: the name is taken by another data set, or the range is empty.
    """
    folder = ImageFolder(name, os.fspath(image_root), checked_range(name, image_range))
    if name in DatasetCatalog:
        if DatasetCatalog.data[name] == folder:
            return
        raise ValueError(
            f"Data set name {name!r} is already registered, for {DatasetCatalog.data[name]}. Use "
            f"another name for {folder.image_root}."
        )
    DatasetCatalog.register(name, folder)
    MetadataCatalog.get(name).set(image_root=folder.image_root, evaluator_type=EVALUATOR_TYPE)


def images_by_stem(root: Path) -> dict[str, Path]:
    """Images below a folder by their path without the ending, such as ``birds/1``.

    Of two files that differ in the ending alone the first in the order of names counts.

    Args:
        root: an existing folder.

    Returns:
        Path below ``root`` without ending, with "/" -> file.
    """
    files: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            files.setdefault(stem_of(path.relative_to(root)), path)
    return files


def stem_of(path: str | Path) -> str:
    """A key of `images_by_stem`: the path without its ending, with "/"."""
    return Path(path).with_suffix("").as_posix()


def checked_range(name: str, image_range: Sequence[int] | None) -> tuple[int, int] | None:
    """``IMAGE_RANGE`` of a data set as a pair.

    Raises:
        ValueError: no pair of numbers, or an empty range.
    """
    if image_range is None:
        return None
    good = len(image_range) == 2 and all(isinstance(n, int) for n in image_range)
    if not good or not 0 <= image_range[0] < image_range[1]:
        raise ValueError(
            f"Data set {name!r}: IMAGE_RANGE: found {list(image_range)}, expected [start, stop] "
            "with 0 <= start < stop"
        )
    return image_range[0], image_range[1]
