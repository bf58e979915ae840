"""Where the overlays and masks of `d2mt predict` go, and its JSON files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2_multitask.data.whole_files import write_json
from d2_multitask.runtime import Result
from d2_multitask.runtime.files import VIDEO_SUFFIXES

WRITABLE = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
SHEET_NAME = "contact_sheet.png"
MASK_FOLDER = "masks"


def share(text: str) -> float:
    """A threshold from 0 to 1, for ``type`` of an option."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected 0 to 1")
    return value


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `d2mt predict` takes, whatever runs the network."""
    parser.add_argument("--output", type=Path, default=Path("output/predictions"))
    parser.add_argument("--tasks", nargs="+", help="run these tasks only, e.g. seg det pose")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="write COCO-format results")
    parser.add_argument("--max-images", type=int, help="most images, and most frames of a video")
    parser.add_argument("--contact-sheet", action="store_true", help=f"also write {SHEET_NAME}")


class JsonFiles:
    """Collects results image by image and writes three files.

    ``FILE.json`` is COCO's list of results, which ``pycocotools``' ``loadRes`` takes, see
    `Result.to_coco`. ``FILE_sem_seg.json`` holds each semantic class that is in an image,
    background left out, see `Result.sem_seg_to_coco`. ``FILE_images.json`` is a list of ``id``,
    ``file_name``, ``width``, ``height``.
    """

    def __init__(self) -> None:
        self.objects: list[dict[str, Any]] = []
        self.sem_seg: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []

    def add(self, image_id: int | str, file_name: str, result: Result) -> None:
        """Add one image; ``file_name`` as the user knows it."""
        self.add_entries(image_id, json_entries(file_name, result))

    def add_entries(self, image_id: int | str, entries: Mapping[str, list[dict[str, Any]]]) -> None:
        """Add what `json_entries` says of an image."""
        self.images += [{"id": image_id, **image} for image in entries["images"]]
        for kind, into in (("objects", self.objects), ("sem_seg", self.sem_seg)):
            into += [{**entry, "image_id": image_id} for entry in entries[kind]]

    def write(self, path: Path) -> list[Path]:
        """Write the files, of semantic classes only if there are some; returns their paths."""
        contents = {"": self.objects, "_sem_seg": self.sem_seg, "_images": self.images}
        paths = []
        for suffix, entries in contents.items():
            if entries or suffix != "_sem_seg":
                paths.append(path.with_name(f"{path.stem}{suffix}{path.suffix or '.json'}"))
                write_json(paths[-1], entries)
        return paths


def json_entries(file_name: str, result: Result) -> dict[str, list[dict[str, Any]]]:
    """What goes into each file of `JsonFiles` for an image; its id is set there."""
    height, width = result.image_size
    return {
        "images": [{"file_name": file_name, "width": width, "height": height}],
        "objects": result.to_coco(0),
        "sem_seg": result.sem_seg_to_coco(0),
    }


def json_file(text: str) -> Path:
    """A path of ``--json``, for argparse."""
    if Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"found the folder {text}, expected a file")
    return Path(text)


def output_paths(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Where each overlay goes: the input's name; with its number in front if the name is taken."""
    taken = {SHEET_NAME}
    targets = []
    for index, path in enumerate(paths):
        suffix = path.suffix if path.suffix.lower() in WRITABLE else ".png"
        if path.suffix.lower() in VIDEO_SUFFIXES:
            suffix = ".mp4"
        name = path.with_suffix(suffix).name
        while name in taken:
            name = f"{index + 1}_{name}"
        taken.add(name)
        targets.append(folder / name)
    return targets


def mask_paths(targets: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Where each input's mask goes: the overlay's name as PNG; a.jpg.png if there is an a.png."""
    taken: set[str] = set()
    paths = {}
    for given, target in targets.items():
        name = f"{target.stem}.png"
        if name in taken:
            name = f"{target.name}.png"
        while name in taken:
            name = f"{name}.png"
        taken.add(name)
        paths[given] = folder / name
    return paths


def refuse_to_overwrite(target: Path, inputs: Sequence[Path]) -> None:
    """Raise ValueError if an output is one of the inputs."""
    if target.exists() and any(path.exists() and target.samefile(path) for path in inputs):
        raise ValueError(
            f"--output {target.parent}: {target.name} would overwrite the input itself"
        )
