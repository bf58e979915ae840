"""Where the overlays and masks of `d2mt predict` go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from d2_multitask.runtime.files import VIDEO_SUFFIXES

WRITABLE = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
SHEET_NAME = "contact_sheet.png"
MASK_FOLDER = "masks"


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
    if target.exists() and any(target.resolve() == path.resolve() for path in inputs):
        raise ValueError(
            f"--output {target.parent}: {target.name} would overwrite the input itself"
        )
