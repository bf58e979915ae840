"""A folder of images as a dataset, without labels or with a folder of foreground masks."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2_multitask.data.datasets.catalog import register
from d2_multitask.data.io import IMAGE_SUFFIXES
from d2_multitask.data.labels.foreground import MaskValues
from d2_multitask.data.problems import DATA_REPORT

logger = logging.getLogger(__name__)

NO_MASK = "image without a foreground mask, not used for segmentation"


@dataclass(frozen=True)
class ImageFolder:
    """What ``DatasetCatalog`` holds for a registered folder; calling it lists the folder.

    Attributes: as the arguments of `register_image_folder` and `register_mask_folder`.
    """

    name: str
    image_root: str
    image_range: tuple[int, int] | None = None
    mask_root: str | None = None
    values: MaskValues | None = None

    def __call__(self) -> list[dict[str, Any]]:
        """List the images: ``file_name``, ``image_id`` (path below the folder) and, where there is
        a mask of that name, ``foreground_file_name`` and ``foreground_values``.

        Images without a mask are counted and stay, as images without that label.

        Raises:
            ValueError: a folder does not exist, or holds no image (in the range), or no mask.
        """
        root = self._existing(self.image_root, "images")
        files = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
        images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise ValueError(
                f"Dataset {self.name!r}: found {len(files)} files and no image in {root}, "
                f"expected files that end with one of {', '.join(IMAGE_SUFFIXES)}"
            )
        start, stop = self.image_range or (0, len(images))
        if stop > len(images):
            raise ValueError(
                f"Dataset {self.name!r}: IMAGE_RANGE: found [{start}, {stop}], expected at most "
                f"{len(images)}, the number of images in {root}"
            )
        logger.info("%s: %d of %d images in %s", self.name, stop - start, len(images), root)
        records = [
            {"file_name": str(root / path), "image_id": path.as_posix()}
            for path in images[start:stop]
        ]
        if self.mask_root is not None:
            self._add_masks(records, self._existing(self.mask_root, "masks"))
        return records

    def _existing(self, folder: str, content: str) -> Path:
        if not Path(folder).is_dir():
            raise ValueError(
                f"Dataset {self.name!r}: found no folder {folder}, expected a folder of {content}"
            )
        return Path(folder)

    def _add_masks(self, records: list[dict[str, Any]], root: Path) -> None:
        masks = images_by_stem(root)
        missing = []
        for record in records:
            mask = masks.get(stem_of(record["image_id"]))
            if mask is None:
                missing.append(record["file_name"])
                continue
            record["foreground_file_name"] = str(mask)
            record["foreground_values"] = self.values
        if len(missing) == len(records):
            raise ValueError(
                f"Dataset {self.name!r}: found no mask for any of {len(records)} images among "
                f"{len(masks)} files in {root}, expected files named as the images, such as "
                f"{root / Path(records[0]['image_id']).with_suffix('.png')}"
            )
        for name in missing:
            DATA_REPORT.add(NO_MASK, name, f"found no file of that name in {root}")


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
        ValueError: the name is taken by another dataset, or the range is empty.
    """
    folder = ImageFolder(name, os.fspath(image_root), _checked_range(name, image_range))
    register(name, folder, image_root=folder.image_root, evaluator_type="image_folder")


def register_mask_folder(
    name: str,
    image_root: str | os.PathLike[str],
    mask_root: str | os.PathLike[str],
    image_range: Sequence[int] | None = None,
    *,
    mask_values: Mapping[str, Any] | None = None,
    mask_threshold: int = 0,
) -> None:
    """Register a folder of images and one of foreground masks. Doing it again changes nothing.

    Args:
        name: as for `register_image_folder`.
        image_root: as there.
        mask_root: the masks, image files of the same names (endings may differ), one channel.
        image_range: as there.
        mask_values: which numbers mean what, ``{"BACKGROUND": 0, "FOREGROUND": 1, "IGNORE": 255}``;
            ``None`` = 0 is background, 1 or 255 foreground.
        mask_threshold: instead: from this number on it is foreground.

    Raises:
        ValueError: the name is taken by another dataset, or an argument is wrong.
    """
    try:
        values = MaskValues.from_mapping(mask_values, mask_threshold)
    except ValueError as error:
        raise ValueError(f"Dataset {name!r}: {error}") from None
    roots = {"image_root": os.fspath(image_root), "mask_root": os.fspath(mask_root)}
    folder = ImageFolder(
        name, image_range=_checked_range(name, image_range), values=values, **roots
    )
    register(name, folder, evaluator_type="mask_folder", **roots)


def images_by_stem(root: Path) -> dict[str, Path]:
    """Images below a folder by their path without the ending, such as ``birds/1``.

    Of two files that differ in the ending alone the first in the order of names counts.
    """
    files: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            files.setdefault(stem_of(path.relative_to(root)), path)
    return files


def stem_of(path: str | Path) -> str:
    """A key of `images_by_stem`: the path without its ending, with "/"."""
    return Path(path).with_suffix("").as_posix()


def _checked_range(name: str, image_range: Sequence[int] | None) -> tuple[int, int] | None:
    if image_range is None:
        return None
    good = len(image_range) == 2 and all(isinstance(n, int) for n in image_range)
    if not good or not 0 <= image_range[0] < image_range[1]:
        raise ValueError(
            f"Dataset {name!r}: IMAGE_RANGE: found {list(image_range)}, expected [start, stop] "
            "with 0 <= start < stop"
        )
    return image_range[0], image_range[1]
