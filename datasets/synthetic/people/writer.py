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

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from d2_multitask.data.whole_files import write_json, write_png
from synthetic.people.labels import (
    IGNORE_VALUE,
    PART_NAMES,
    SEM_SEG_NAMES,
    person_category,
)
from synthetic.people.scene import draw_scene
from synthetic.people.scene_config import SceneConfig
from synthetic.split import Progress, as_json, check_drawing, check_split, write_once

GENERATOR_VERSION = 1
"""Rises whenever the same arguments give other pixels or labels."""

FOLDER_NAME = "synthetic_people"
_MAP_NAMES = ("images", "sem_seg", "parts")

_Entry = dict[str, Any]


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
        """All that decides the content."""
        return as_json(
            {
                "generator_version": GENERATOR_VERSION,
                "split": self.name,
                "num_images": self.num_images,
                "seed": self.seed,
                "scene_config": asdict(self.config),
            }
        )


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
        root: the folder of all datasets.
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
        LockHeldError: another process draws there.
    """
    check_split(split, num_images)
    check_drawing(seed, num_workers)
    work = _Split(Path(root) / FOLDER_NAME, split, num_images, seed, config or SceneConfig())
    return write_once(
        work.folder,
        work.json_file,
        work.arguments(),
        [work.map_file(name, i) for name in _MAP_NAMES for i in range(num_images)],
        partial(_draw_one, work),
        num_images,
        lambda drawn: write_json(work.json_file, _content(work, drawn)),
        num_workers=num_workers,
        overwrite=overwrite,
        progress=progress,
    )


def _draw_one(work: _Split, index: int) -> tuple[int, tuple[_Entry, list[_Entry]]]:
    """Draw an image and write its files; returns its index and its entries of the JSON."""
    scene = draw_scene(work.seed, work.name, index, work.config)
    maps = (scene.image, scene.sem_seg, scene.parts)
    for map_name, array in zip(_MAP_NAMES, maps, strict=True):
        write_png(work.map_file(map_name, index), array)
    height, width = scene.sem_seg.shape
    image = {
        "id": index + 1,
        "file_name": work.map_file("images", index).name,
        "height": height,
        "width": width,
        "license": 1,
    }
    return index, (image, scene.annotations)


def _content(work: _Split, drawn: list[tuple[_Entry, list[_Entry]]]) -> dict[str, Any]:
    """The JSON file; annotations are numbered in the order of the images."""
    images = [image for image, _ in drawn]
    labels = [(image["id"], label) for image, found in drawn for label in found]
    annotations = [
        {"id": number, "image_id": image_id, **label}
        for number, (image_id, label) in enumerate(labels, start=1)
    ]
    return {
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
        "categories": [person_category()],
        "images": images,
        "annotations": annotations,
    }
