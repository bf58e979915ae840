"""Write drawn textures as folders of images and masks, and as COCO JSON.

    <root>/synthetic_textures/<kind>/
        <split>/images/000000.png            RGB
        <split>/masks/000000.png             255 = object, 0 = background
        annotations/instances_<split>.json   COCO format: one object an image

Contract: the JSON is written last, in one step, and means that the split is complete. It keeps the
arguments; a split that was made with other arguments is never replaced unasked.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from d2_multitask.data.labels.masks import encode
from d2_multitask.data.whole_files import write_json, write_png
from synthetic.people.annotate import tight_box
from synthetic.split import Progress, as_json, check_drawing, check_split, write_once
from synthetic.textures.scene import KINDS, TextureConfig, draw_textures

GENERATOR_VERSION = 1
"""Rises whenever the same arguments give other pixels or masks."""

FOLDER_NAME = "synthetic_textures"
SPLITS = ("train", "val", "test")
_FOLDERS = ("images", "masks")


@dataclass(frozen=True)
class _Split:
    """What to draw, and where."""

    folder: Path
    kind: str
    name: str
    num_images: int
    seed: int
    config: TextureConfig

    @property
    def json_file(self) -> Path:
        return self.folder / "annotations" / f"instances_{self.name}.json"

    def file(self, what: str, index: int) -> Path:
        return self.folder / self.name / what / f"{index:06d}.png"

    def arguments(self) -> dict[str, Any]:
        """All that decides the content."""
        return as_json(
            {
                "generator_version": GENERATOR_VERSION,
                "kind": self.kind,
                "split": self.name,
                "num_images": self.num_images,
                "seed": self.seed,
                "config": asdict(self.config),
            }
        )


def write_synthetic_textures(
    root: str | Path,
    kind: str,
    split: str,
    num_images: int,
    seed: int = 0,
    *,
    config: TextureConfig | None = None,
    num_workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Draw one split of one kind below ``root / "synthetic_textures" / kind``.

    A split that exists with the same arguments is left alone.

    Args:
        root: the folder of all datasets.
        kind: "same_palette" or "other_palette".
        split: "train", "val", "test", or any other name of letters, digits and "_".
        num_images: number of images, at most 1,000,000.
        seed: in [0, 2**32).
        config: settings of the pictures; the defaults if None.
        num_workers: processes that draw; the result does not depend on it.
        overwrite: replace a split that was made with other arguments.
        progress: is called with (images done, images in all), also for a split left alone.

    Returns:
        The path of the JSON file.

    Raises:
        ValueError: a bad argument, or the split exists with other arguments and ``overwrite`` is
            False.
        LockHeldError: another process draws there.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {KINDS}, got {kind!r}")
    check_split(split, num_images)
    check_drawing(seed, num_workers)
    folder = Path(root) / FOLDER_NAME / kind
    work = _Split(folder, kind, split, num_images, seed, config or TextureConfig())
    return write_once(
        work.folder,
        work.json_file,
        work.arguments(),
        [work.file(what, index) for what in _FOLDERS for index in range(num_images)],
        partial(_draw_one, work),
        num_images,
        lambda annotations: write_json(work.json_file, _content(work, annotations)),
        num_workers=num_workers,
        overwrite=overwrite,
        progress=progress,
    )


def _draw_one(work: _Split, index: int) -> tuple[int, dict[str, Any]]:
    """Draw an image and write its files; returns its index and its COCO annotation."""
    scene = draw_textures(work.seed, work.kind, work.name, index, work.config)
    write_png(work.file("images", index), scene.image)
    write_png(work.file("masks", index), scene.mask.astype(np.uint8) * 255)
    return index, {
        "id": index + 1,
        "image_id": index + 1,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": tight_box(scene.mask),
        "area": int(scene.mask.sum()),
        "segmentation": encode(scene.mask),
    }


def _content(work: _Split, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    size = {"height": work.config.height, "width": work.config.width}
    return {
        "info": {
            "description": "A striped object on a striped background, drawn from a seed",
            "arguments": work.arguments(),
        },
        "categories": [{"id": 1, "name": "object"}],
        "images": [
            {"id": index + 1, "file_name": work.file("images", index).name, **size}
            for index in range(work.num_images)
        ],
        "annotations": annotations,
    }
