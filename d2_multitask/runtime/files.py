"""Images and videos in what a user typed, and images read and written with Pillow."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset(
    ".bmp .gif .jfif .jpeg .jpg .jp2 .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)
VIDEO_SUFFIXES = frozenset(".avi .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .webm .wmv".split())


def find_media(inputs: Sequence[str], option: str = "--input") -> tuple[list[Path], list[Path]]:
    """The files that a list of files, folders and patterns stands for.

    Args:
        inputs: paths of files or folders (their direct content), or patterns such as ``in/*.jpg``.
        option: where they were typed, for messages.

    Returns:
        Images and videos, in the order given, sorted inside folders and patterns; each once. A file
        that is named itself counts as an image if its ending is unknown.

    Raises:
        ValueError: an input does not exist, matches nothing, or is a folder without images.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        path = Path(given).expanduser()
        if path.is_dir():
            files = [p for p in sorted(path.iterdir()) if p.is_file() and is_media(p)]
            if not files:
                raise ValueError(
                    f"{option} {given}: the folder holds no image and no video; expected files "
                    f"ending in {' '.join(sorted(IMAGE_SUFFIXES))}"
                )
        elif path.is_file():
            files = [path]
        elif glob.has_magic(given):
            matches = (
                Path(p) for p in sorted(glob.glob(os.path.expanduser(given), recursive=True))
            )
            files = [p for p in matches if p.is_file() and is_media(p)]
            if not files:
                raise ValueError(f"{option} {given}: the pattern matches no image and no video")
        else:
            raise ValueError(f"{option} {given}: no such file or folder")
        found.update(dict.fromkeys(files))
    images = [p for p in found if p.suffix.lower() not in VIDEO_SUFFIXES]
    return images, [p for p in found if p.suffix.lower() in VIDEO_SUFFIXES]


def is_media(path: Path) -> bool:
    """Whether the ending is that of an image or a video."""
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def read_image(path: Path) -> np.ndarray:
    """An image as it is shown (EXIF), (H, W, 3) uint8 BGR; alpha is dropped.

    Of 16-bit pixels the high byte is taken, as `d2_multitask.data.io.read_image` does.

    Raises:
        ValueError: the file is missing, broken or no image, or its pixels are floating-point or
            wider than 16 bits; names it.
    """
    try:
        with Image.open(path) as image:
            shown = ImageOps.exif_transpose(image)
            if shown.mode[0] in "IF":  # Pillow would clip them at 255
                shown = Image.fromarray(_high_byte(np.asarray(shown)))
            return np.ascontiguousarray(np.asarray(shown.convert("RGB"))[:, :, ::-1])
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, and more
        raise ValueError(f"{path}: cannot be read ({error}), expected an image") from error


def _high_byte(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        raise ValueError("found floating-point pixels, expected 8-bit or 16-bit integers")
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"found pixels {values.min()} to {values.max()}, expected 0 to 65535")
    return (values >> 8).astype(np.uint8)


def numbers_of(file_names: Sequence[str]) -> list[int]:
    """Ids for images: the numbers that the names are, as in ``000000000785.jpg``; else 1, 2, 3, ...

    The names count if all are different numbers of at most 64 bits.
    """
    stems = [Path(name).stem for name in file_names]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if max(numbers, default=0) < 2**63 and len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(stems) + 1))
