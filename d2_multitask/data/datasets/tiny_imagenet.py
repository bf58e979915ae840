"""Tiny-ImageNet: 200 classes of ImageNet, 500 training images and 50 for validation of each.

The files as they are published, images of 64x64 pixels:

    wnids.txt                         the classes, in the order of their numbers
    words.txt                         their names in words
    train/n01443537/images/*.JPEG     the training images of a class
    val/images/*.JPEG, val/val_annotations.txt    file name and class in each line
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from d2_multitask.data.datasets.catalog import register

SIZE = 64
"""Height and width of every image, in pixels."""


@dataclass(frozen=True)
class TinyImageNet:
    """What ``DatasetCatalog`` holds; calling it lists the images.

    Attributes:
        name: registered name.
        root: the folder with ``wnids.txt``.
        split: "train" or "val"; the classes of the test images are not published.
    """

    name: str
    root: str
    split: str

    def __call__(self) -> list[dict[str, Any]]:
        """Dicts with ``file_name``, ``image_id``, size and ``image_labels``: the one class.

        The names of the classes become metadata.

        Raises:
            ValueError: a file is missing, or names an unknown class.
        """
        root = Path(self.root)
        try:
            codes = (root / "wnids.txt").read_text(encoding="utf-8").split()
            words = (root / "words.txt").read_text(encoding="utf-8").splitlines()
            numbers = {code: number for number, code in enumerate(codes)}
            found = self._train(root, codes) if self.split == "train" else self._val(root)
            labelled = [(path, numbers[code]) for path, code in found]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"Dataset {self.name!r}: {type(error).__name__}: {error}; expected Tiny-ImageNet "
                f"as it is published, wnids.txt, words.txt, train/ and val/, in {root}"
            ) from None
        names = dict(line.split("\t", 1) for line in words if "\t" in line)
        MetadataCatalog.get(self.name).set(stuff_classes=_short_names(codes, names))
        return [
            {
                "file_name": str(path),
                "image_id": path.stem,
                "height": SIZE,
                "width": SIZE,
                "image_labels": [number],
            }
            for path, number in labelled
        ]

    def _train(self, root: Path, codes: list[str]) -> list[tuple[Path, str]]:
        folders = [(code, root / "train" / code / "images") for code in codes]
        return [
            (folder / name, code)
            for code, folder in folders
            for name in sorted(os.listdir(folder))
            if name.endswith(".JPEG")
        ]

    def _val(self, root: Path) -> list[tuple[Path, str]]:
        text = (root / "val" / "val_annotations.txt").read_text(encoding="utf-8")
        rows = [line.split("\t")[:2] for line in text.splitlines() if line]
        return [(root / "val" / "images" / name, code) for name, code in rows]


def _short_names(codes: list[str], names: dict[str, str]) -> list[str]:
    """The first of each class's names; the class's code too where two would be the same."""
    short = [names.get(code, code).split(",")[0] for code in codes]
    return [
        f"{name} {code}" if short.count(name) > 1 else name
        for name, code in zip(short, codes, strict=True)
    ]


def register_tiny_imagenet(root: str) -> None:
    """Register ``tiny_imagenet_{train,val}`` below ``root/tiny-imagenet-200``."""
    folder = os.path.join(root, "tiny-imagenet-200")
    for split in ("train", "val"):
        dataset = TinyImageNet(f"tiny_imagenet_{split}", folder, split)
        register(dataset.name, dataset, image_root=folder, evaluator_type="image_folder")
