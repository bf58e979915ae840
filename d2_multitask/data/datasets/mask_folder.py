"""A folder of images and a folder of foreground masks as a data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_multitask.data.datasets.image_folder import (
    ImageFolder,
    checked_range,
    images_by_stem,
    stem_of,
)
from d2_multitask.data.labels.foreground import MaskValues
from d2_multitask.data.problems import DATA_REPORT

EVALUATOR_TYPE = "mask_folder"
NO_MASK = "image without a foreground mask, not used for segmentation"


@dataclass(frozen=True)
class MaskFolder:
    """What ``DatasetCatalog`` holds for a registered pair of folders; calling it lists them.

    Attributes: as the arguments of `register_mask_folder`.
    """

    name: str
    image_root: str
    mask_root: str
    image_range: tuple[int, int] | None = None
    values: MaskValues = field(default_factory=MaskValues)

    def __call__(self) -> list[dict[str, Any]]:
        """List the images: ``file_name``, ``image_id`` (path below the folder) and, where there is
        a mask of that name, ``foreground_file_name`` and ``foreground_values``.

        Images without a mask are counted and stay, as images without that label.

        Raises:
            ValueError: a folder does not exist, or no image (in the range), or no image's mask.
        """
        records = ImageFolder(self.name, self.image_root, self.image_range)()
        root = Path(self.mask_root)
        if not root.is_dir():
            raise ValueError(
                f"Data set {self.name!r}: found no folder {root}, expected a folder of masks"
            )
        masks = images_by_stem(root)
        missing = []
        for record in records:
            mask = masks.get(stem_of(record["image_id"]))
            if mask is not None:
                record["foreground_file_name"] = str(mask)
                record["foreground_values"] = self.values
            else:
                missing.append(record["file_name"])
        if len(missing) == len(records):
            raise ValueError(
                f"Data set {self.name!r}: found no mask for any of {len(records)} images among "
                f"{len(masks)} files in {root}, expected files named as the images, such as "
                f"{root / Path(records[0]['image_id']).with_suffix('.png')}"
            )
        for name in missing:
            DATA_REPORT.add(NO_MASK, name, f"found no file of that name in {root}")
        return records


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
        name: for ``DATASETS.TRAIN`` and ``TEST``.
        image_root: the folder of images; folders below it count too.
        mask_root: the masks, image files of the same names (endings may differ), one channel.
        image_range: (start, stop) in the order of the images' names; ``None`` = all.
        mask_values: which numbers mean what, ``{"BACKGROUND": 0, "FOREGROUND": 1, "IGNORE": 255}``;
            ``None`` = 0 is background, 1 or 255 foreground.
        mask_threshold: instead: from this number on it is foreground.

    Raises:
        ValueError: the name is taken by another data set, or an argument is wrong.
    """
    try:
        values = MaskValues.from_mapping(mask_values, mask_threshold)
    except ValueError as error:
        raise ValueError(f"Data set {name!r}: {error}") from None
    folder = MaskFolder(
        name,
        os.fspath(image_root),
        os.fspath(mask_root),
        checked_range(name, image_range),
        values,
    )
    if name in DatasetCatalog:
        if DatasetCatalog.data[name] == folder:
            return
        raise ValueError(
            f"Data set name {name!r} is already registered, for {DatasetCatalog.data[name]}. Use "
            f"another name for {folder.image_root}."
        )
    DatasetCatalog.register(name, folder)
    MetadataCatalog.get(name).set(
        image_root=folder.image_root, mask_root=folder.mask_root, evaluator_type=EVALUATOR_TYPE
    )
