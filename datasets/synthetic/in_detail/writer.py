"""Write synthetic scenes in PASCAL in Detail's layout.

    <root>/synthetic_in_detail/
        VOCdevkit/VOC2010/JPEGImages/2008_000001.jpg ...
        pascal_in_detail/trainval_merged.json          all labels but joints
        pascal_in_detail/trainval_withkeypoints.json   the same with joints

Contract: images first, the JSON files last, each in one step, ``trainval_withkeypoints.json`` at
the very end. So this file means that the set is complete. It keeps the arguments, and a set that
was made with other arguments is never replaced unasked.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from d2_multitask.data.datasets.pascal_in_detail import WITH_JOINTS, WITHOUT_JOINTS
from d2_multitask.data.whole_files import whole_file, write_json
from synthetic.in_detail.annotate import (
    edge_annotations,
    instance_annotations,
    joint_annotations,
    stuff_annotations,
)
from synthetic.in_detail.labels import category_entries, part_entries
from synthetic.in_detail.scene import DETAIL_CONFIG, draw_detail_scene
from synthetic.people.scene_config import SceneConfig
from synthetic.split import Progress, as_json, check_drawing, write_once

GENERATOR_VERSION = 1
"""Rises whenever the same arguments give other pixels or labels."""

FOLDER_NAME = "synthetic_in_detail"
_JPEG_QUALITY = 95
# The year in the images' names, as VOC names them; ids are the digits of the name.
_YEARS = {"train": 2008, "val": 2009}
_MAX_IMAGES = 999_999


@dataclass(frozen=True)
class _Work:
    """What to draw, and where."""

    folder: Path
    num_images: dict[str, int]
    seed: int
    config: SceneConfig

    @property
    def total(self) -> int:
        return sum(self.num_images.values())

    def annotation_file(self, name: str) -> Path:
        return self.folder / "pascal_in_detail" / name

    @property
    def image_root(self) -> Path:
        return self.folder / "VOCdevkit" / "VOC2010" / "JPEGImages"

    def place(self, number: int) -> tuple[str, int]:
        """Phase of an image, and its number there."""
        phase = "train" if number < self.num_images["train"] else "val"
        return phase, number - (phase == "val") * self.num_images["train"]

    def arguments(self) -> dict[str, Any]:
        """All that decides the content."""
        return as_json(
            {
                "num_images": self.num_images,
                "seed": self.seed,
                "generator_version": GENERATOR_VERSION,
                "config": asdict(self.config),
            }
        )


def write_synthetic_in_detail(
    root: str | Path,
    num_train: int,
    num_val: int,
    seed: int = 0,
    *,
    config: SceneConfig | None = None,
    num_workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Draw both phases below ``root / "synthetic_in_detail"``.

    A set that exists with the same arguments is left alone.

    Args:
        root: the folder of all datasets.
        num_train: number of training images.
        num_val: number of validation images.
        seed: in [0, 2**32).
        config: settings; ``DETAIL_CONFIG`` if None.
        num_workers: processes that draw; the result does not depend on it.
        overwrite: replace a set that was made with other arguments.
        progress: is called with (images done, images in all).

    Returns:
        The path of the annotation file with joints.

    Raises:
        ValueError: a bad argument, or there is another set and ``overwrite`` is False.
    """
    for name, count in (("num_train", num_train), ("num_val", num_val)):
        if not 0 <= count <= _MAX_IMAGES:
            raise ValueError(f"{name}: expected 0 to {_MAX_IMAGES}, got {count}")
    if num_train + num_val < 1:
        raise ValueError("num_train, num_val: expected at least one image, got 0 and 0")
    check_drawing(seed, num_workers)
    counts = {"train": num_train, "val": num_val}
    work = _Work(Path(root) / FOLDER_NAME, counts, seed, config or DETAIL_CONFIG)
    return write_once(
        work.folder,
        work.annotation_file(WITH_JOINTS),
        work.arguments(),
        [work.image_root / _file_name(*work.place(number)) for number in range(work.total)],
        partial(_draw_one, work),
        work.total,
        partial(_write_annotations, work),
        num_workers=num_workers,
        overwrite=overwrite,
        progress=progress,
    )


def _write_annotations(work: _Work, drawn: list[dict[str, Any]]) -> None:
    """The file with joints last: it means that the set is complete."""
    content = _content(work, drawn)
    without = {key: value for key, value in content.items() if key != "annos_joints"}
    write_json(work.annotation_file(WITHOUT_JOINTS), without)
    write_json(work.annotation_file(WITH_JOINTS), content)


def _file_name(phase: str, index: int) -> str:
    return f"{_YEARS[phase]}_{index + 1:06d}.jpg"


def _draw_one(work: _Work, number: int) -> tuple[int, dict[str, Any]]:
    """Draw an image and write its file; returns its number and its entries by their list."""
    phase, index = work.place(number)
    scene = draw_detail_scene(work.seed, phase, index, work.config)
    name = _file_name(phase, index)
    with whole_file(work.image_root / name) as unfinished:
        Image.fromarray(scene.image).save(unfinished, format="JPEG", quality=_JPEG_QUALITY)
    height, width = scene.owner.shape
    boundary, occlusion = edge_annotations(scene)
    image = {
        "image_id": int(name[:4] + name[5:11]),
        "file_name": name,
        "width": width,
        "height": height,
        "phase": phase,
        "date_captured": "31-May-2015 17:45:00",
    }
    return number, {
        "image": image,
        "stuff": stuff_annotations(scene),
        "instances": instance_annotations(scene),
        "joints": joint_annotations(scene),
        "boundary": boundary,
        "occlusion": occlusion,
    }


def _content(work: _Work, drawn: list[dict[str, Any]]) -> dict[str, Any]:
    """The file: lists of entries with their ids; all stuff before all instances."""
    masks: list[dict[str, Any]] = []
    joints: list[dict[str, Any]] = []
    for kind in ("stuff", "instances"):
        for entries in drawn:
            link = {"image_id": entries["image"]["image_id"]}
            masks += [{"id": 0, **link, **entry} for entry in entries[kind]]
    for number, entry in enumerate(masks, start=1):
        entry["id"] = number
    for entries in drawn:
        link = {"image_id": entries["image"]["image_id"]}
        for entry in entries["joints"]:
            joints.append({"person_id": len(joints) + 1, **link, **entry})
    return {
        "info": {
            "description": "Synthetic scenes in the layout of PASCAL in Detail, drawn from a seed",
            "version": "3.0",
            "year": 2017,
            "contributor": "d2_multitask",
            "date_created": "2017-07-18",
            "arguments": work.arguments(),
        },
        "images": [entries["image"] for entries in drawn],
        "categories": category_entries(),
        "parts": part_entries(),
        "annos_segmentation": masks,
        "annos_joints": joints,
        "annos_boundary": [
            {"image_id": entries["image"]["image_id"], **entries["boundary"]} for entries in drawn
        ],
        "annos_occlusion": [
            {"image_id": entries["image"]["image_id"], **entries["occlusion"]} for entries in drawn
        ],
    }
