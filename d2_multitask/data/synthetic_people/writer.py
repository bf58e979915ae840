"""Write a split of the synthetic people as COCO JSON and PNG files.

    <root>/synthetic_people/
        annotations/instances_<split>.json   boxes, masks (RLE), joints, crowds, depth_order
        <split>/images/000000.png            RGB
        <split>/sem_seg/000000.png           0 background, 1 person, 255 crowd
        <split>/parts/000000.png             part ids (labels.PART_NAMES), 255 crowd

Contract: the images are written first and the JSON last, in one step. So a JSON file means that
the split is complete; what an interrupted run left is drawn again by the next one. The JSON keeps
the arguments, and a split that was made with other arguments is never replaced unasked.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2_multitask.data.synthetic_people.labels import (
    IGNORE_VALUE,
    KEYPOINT_NAMES,
    PART_NAMES,
    PERSON_CATEGORY_ID,
    SEM_SEG_NAMES,
    SKELETON,
)
from d2_multitask.data.synthetic_people.parallel import map_unordered
from d2_multitask.data.synthetic_people.scene import draw_scene
from d2_multitask.data.synthetic_people.scene_config import SceneConfig

GENERATOR_VERSION = 1
"""Rises whenever the same arguments give other pixels or labels."""

FOLDER_NAME = "synthetic_people"
_MAP_NAMES = ("images", "sem_seg", "parts")
_OUR_FILE_NAME = re.compile(r"\d{6}\.png(\.part)?")

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Split:
    """What to draw, and where."""

    folder: Path
    name: str
    num_images: int
    seed: int
    config: SceneConfig

    @property
    def json_file(self) -> Path:
        return self.folder / "annotations" / f"instances_{self.name}.json"

    def map_file(self, map_name: str, index: int) -> Path:
        return self.folder / self.name / map_name / f"{index:06d}.png"

    def arguments(self) -> dict[str, Any]:
        """All that decides the content, as JSON gives it back (lists, not tuples)."""
        arguments = {
            "generator_version": GENERATOR_VERSION,
            "split": self.name,
            "num_images": self.num_images,
            "seed": self.seed,
            "scene_config": asdict(self.config),
        }
        return json.loads(json.dumps(arguments))


def write_synthetic_people(
    root: Path,
    split: str,
    num_images: int,
    seed: int,
    *,
    config: SceneConfig | None = None,
    num_workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Draw one split and write it below ``root / "synthetic_people"``.

    A split that exists with the same arguments is left alone.

    Args:
        root: the folder of all data sets.
        split: "train" or "val", or any other name of letters, digits and "_".
        num_images: number of images, at most 1,000,000.
        seed: in [0, 2**32).
        config: settings of the scenes; the defaults if None.
        num_workers: processes that draw; the result does not depend on it.
        overwrite: replace a split that was made with other arguments.
        progress: is called with (images done, images in all), also for a split left alone.

    Returns:
        The path of the JSON file.

    Raises:
        ValueError: for a bad argument, or if the split exists with other arguments, or its JSON
            file is not one of ours, and ``overwrite`` is False.
    """
    if not re.fullmatch(r"\w+", split):
        raise ValueError(f"split: expected letters, digits and '_', got {split!r}")
    if not 1 <= num_images <= 1_000_000:
        raise ValueError(f"num_images: expected 1 to 1,000,000, got {num_images}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected an integer in [0, 2**32), got {seed}")
    if num_workers < 1:
        raise ValueError(f"num_workers: expected at least 1, got {num_workers}")
    work = _Split(Path(root) / FOLDER_NAME, split, num_images, seed, config or SceneConfig())
    progress = progress or (lambda done, total: None)
    if _is_complete(work, overwrite):
        logger.info("%s is complete, nothing to draw", work.json_file)
        progress(num_images, num_images)
        return work.json_file
    # From here on the split is incomplete, and must not look complete if we are interrupted.
    work.json_file.unlink(missing_ok=True)
    _prepare_folders(work)
    images, annotations = _draw_all(work, num_workers, progress)
    _write_json(work, images, annotations)
    return work.json_file


def _is_complete(work: _Split, overwrite: bool) -> bool:
    """Whether the split is there; ValueError if another one is in its place."""
    if not work.json_file.exists():
        return False
    try:
        found = json.loads(work.json_file.read_text())["info"]["arguments"]
    except (ValueError, KeyError, TypeError):
        found = {}
    wanted = work.arguments()
    if found == wanted:
        files = (work.map_file(name, i) for name in _MAP_NAMES for i in range(work.num_images))
        return all(file.exists() for file in files)
    if overwrite:
        return False
    raise ValueError(
        f"{work.json_file}: info.arguments: this split was made with other arguments "
        f"({_difference(found, wanted)}); pass overwrite=True (--overwrite on the command line) "
        "to replace it, or use another folder"
    )


def _difference(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> str:
    """The arguments that differ, as text."""
    if not found:
        return "it was not written by this generator"
    parts = []
    for key in sorted(found.keys() | wanted.keys()):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = _difference(old, new, f"{prefix}{key}.") if old != new else ""
            parts += [inner] if inner else []
        elif old != new:
            parts.append(f"{prefix}{key}: found {old}, expected {new}")
    return "; ".join(parts)


def _prepare_folders(work: _Split) -> None:
    """Make the folders, and remove our files that do not belong to the new split."""
    work.json_file.parent.mkdir(parents=True, exist_ok=True)
    for map_name in _MAP_NAMES:
        folder = work.folder / work.name / map_name
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {f"{index:06d}.png" for index in range(work.num_images)}
        for file in folder.iterdir():
            if _OUR_FILE_NAME.fullmatch(file.name) and file.name not in wanted:
                file.unlink()


def _write_png(file: Path, array: np.ndarray) -> None:
    """Write an image in one step: the file is either whole or not there."""
    unfinished = file.with_name(file.name + ".part")
    # Noise hardly shrinks: level 1 gives nearly the same size and is several times faster.
    Image.fromarray(array).save(unfinished, format="PNG", compress_level=1)
    os.replace(unfinished, file)


def _draw_one(work: _Split, index: int) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """Draw an image and write its files; returns its index and its entries of the JSON."""
    scene = draw_scene(work.seed, work.name, index, work.config)
    maps = (scene.image, scene.sem_seg, scene.parts)
    for map_name, array in zip(_MAP_NAMES, maps, strict=True):
        _write_png(work.map_file(map_name, index), array)
    height, width = scene.sem_seg.shape
    image = {
        "id": index + 1,
        "file_name": work.map_file("images", index).name,
        "height": height,
        "width": width,
        "license": 1,
    }
    return index, image, scene.annotations


def _draw_all(
    work: _Split, num_workers: int, progress: Progress
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All entries ``images`` and ``annotations`` of the JSON, in the order of the images."""
    drawn: dict[int, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    progress(0, work.num_images)
    for index, image, labels in map_unordered(
        partial(_draw_one, work), work.num_images, num_workers
    ):
        drawn[index] = (image, labels)
        progress(len(drawn), work.num_images)
    images, annotations = [], []
    for index in range(work.num_images):
        image, labels = drawn[index]
        images.append(image)
        for label in labels:
            identity = {"id": len(annotations) + 1, "image_id": image["id"]}
            annotations.append({**identity, **label})
    return images, annotations


def _write_json(
    work: _Split, images: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> None:
    """Write the JSON file in one step."""
    content = {
        "info": {
            "description": "Synthetic people, drawn from a seed",
            "version": str(GENERATOR_VERSION),
            "arguments": work.arguments(),
            "part_names": list(PART_NAMES),
            "sem_seg_names": list(SEM_SEG_NAMES),
            "ignore_value": IGNORE_VALUE,
        },
        "licenses": [
            {
                "id": 1,
                "name": "Apache License 2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            }
        ],
        "categories": [
            {
                "id": PERSON_CATEGORY_ID,
                "name": "person",
                "supercategory": "person",
                "keypoints": list(KEYPOINT_NAMES),
                "skeleton": [list(pair) for pair in SKELETON],
            }
        ],
        "images": images,
        "annotations": annotations,
    }
    unfinished = work.json_file.with_name(work.json_file.name + ".part")
    unfinished.write_text(json.dumps(content, separators=(",", ":")))
    os.replace(unfinished, work.json_file)
