"""Reads images and label maps of all the kinds that real folders hold, or says what is wrong.

Images become (H, W, C) uint8 in the asked channel order: grey-scale is repeated over the channels,
alpha is dropped, palettes are looked up, CMYK is converted, 16-bit values keep their high byte.
EXIF orientation is applied, as Detectron2 does. Label maps keep their numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import cv2
import numpy as np
from detectron2.data import detection_utils
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.utils.file_io import PathManager
from PIL import Image

from d2_multitask.data.problems import DATA_REPORT, ProblemReport

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MASK_IN_ALPHA = "mask of one colour, its transparency (alpha) is read instead"
EXIF_LEFT_OUT = "EXIF rotation not applied, because the labels are for the stored pixels"

DARK_16_BIT = "16-bit image whose values fit into 8 bits is all black"

# Their compression changes numbers, between two classes to a third one.
_LOSSY_FORMATS = ("JPEG", "MPO")

_ID_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")

# Orientations from 5 on have rows and columns exchanged.
_EXIF_ORIENTATION, _FIRST_TURNED = 0x0112, 5


class ImageReadError(ValueError):
    """An image file is missing, broken, or of a kind that cannot be read; names the file."""


class ShardError(ValueError):
    """A tar file of images is missing, cut or no tar file; the message names it and the place."""


def read_image(
    file_name: str,
    image_format: str = "BGR",
    expected_size: tuple[int, int] | None = None,
    report: ProblemReport = DATA_REPORT,
) -> np.ndarray:
    """Read an image file.

    Labels usually refer to the image as it is shown, so the EXIF orientation is applied. If the
    expected size fits only the stored pixels, the labels were made on those: the rotation is left
    out, and counted. (Half turns and mirrored images have one size only; they are shown.)

    Args:
        file_name: path, or anything else that Detectron2's ``PathManager`` opens.
        image_format: Detectron2's ``INPUT.FORMAT``.
        expected_size: (h, w) that the labels say, ``None`` to take any.
        report: counts the rotations that were left out, and 16-bit images that become black.

    Returns:
        (H, W, C) uint8, contiguous (float for ``YUV-BT.601``).

    Raises:
        ImageReadError: the file is missing, truncated or not an image.
        SizeMismatchError: the image has another size than ``expected_size``, rotated or not.
    """
    with _opened(file_name) as image:
        stored = _to_8_bit(image, file_name, report)
        stored.load()
        shown = detection_utils._apply_exif_orientation(stored)
        chosen = shown
        if expected_size and _size(shown) != expected_size and _size(stored) == expected_size:
            chosen = stored
        pixels = _to_array(chosen, image_format)
    if expected_size and _size(chosen) != expected_size:
        raise SizeMismatchError(
            f"{file_name}: found an image of {_text(_size(shown))}, expected "
            f"{_text(expected_size)} as the labels say (width x height)"
        )
    if chosen is not shown:
        report.add(
            EXIF_LEFT_OUT,
            file_name,
            f"found {_text(_size(shown))} when rotated as EXIF says, expected "
            f"{_text(expected_size)} (width x height), which the stored pixels have",
        )
    return np.ascontiguousarray(pixels)


def image_size(file_name: str) -> tuple[int, int]:
    """(height, width) of an image as it is shown, rotated as EXIF says; it is not decoded.

    Raises:
        ImageReadError: the file is missing, or no image.
    """
    with _opened(file_name) as image:
        height, width = _size(image)
        is_turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= _FIRST_TURNED
    return (width, height) if is_turned else (height, width)


def read_label_map(
    file_name: str,
    *,
    grey_colors: bool = False,
    white_zero: bool = True,
    expected_size: tuple[int, int] | None = None,
    report: ProblemReport = DATA_REPORT,
) -> np.ndarray:
    """Read a map of class ids; the numbers of a palette image are the ids, not its colours.

    Args:
        file_name: path, or anything else that Detectron2's ``PathManager`` opens.
        grey_colors: also accept colour images of three equal channels, as masks often are; if the
            whole image has one colour and is not opaque, the mask is alpha, and counted.
        white_zero: accept a palette that shows 0 as white and the other numbers as darker greys.
        expected_size: (h, w) of the image. An EXIF orientation is applied, as to the image, unless
            only the stored numbers have this size.
        report: counts the masks in alpha.

    Returns:
        (H, W) integers, as stored.

    Raises:
        ImageReadError: the file is missing, broken, has more than one channel or a palette that is
            not accepted, or is a JPEG file, which holds no exact numbers (with ``grey_colors`` they
            are the caller's matter).
    """
    with _opened(file_name, "a label map") as image:
        mode, is_lossy = image.mode, image.format in _LOSSY_FORMATS
        shown = detection_utils._apply_exif_orientation(image)
        is_turned = expected_size in (None, _size(shown)) or expected_size != _size(image)
        ids = np.array(shown if is_turned else image)
        is_negative = not white_zero and _shows_zero_white(image, ids)
    if is_lossy and not grey_colors:
        raise ImageReadError(
            f"{file_name}: found a label map in a JPEG file, whose compression changes the ids at "
            "every border; expected PNG, made from the original labels"
        )
    if is_negative:
        raise ImageReadError(
            f"{file_name}: found a palette in which 0 is white and the other numbers are darker, "
            "expected 0 to be black. Set MASK_VALUES of the dataset, or save it in grey-scale"
        )
    if grey_colors and mode in ("RGB", "RGBA", "LA"):
        colors = ids[..., :-1] if mode.endswith("A") else ids
        is_flat = bool((colors == colors[:1, :1]).all())
        if mode.endswith("A") and is_flat and (ids[..., -1] < 255).any():
            found = f"found the colour {colors[0, 0].tolist()} everywhere"
            report.add(MASK_IN_ALPHA, file_name, f"{found}, expected a mask of one channel")
            return ids[..., -1]
        if (colors == colors[..., :1]).all():
            return colors[..., 0]
    if mode not in _ID_MODES:
        raise ImageReadError(
            f"{file_name}: found an image of mode {mode}, expected one channel of class ids "
            "(grey-scale or palette)"
        )
    return ids.astype(np.uint8) if mode == "1" else ids


@contextlib.contextmanager
def _opened(file_name: str, kind: str = "an image") -> Iterator[Image.Image]:
    """An image file; what goes wrong in the block, in its decoder too, is an `ImageReadError`."""
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            yield image
    except (MemoryError, ShardError):  # not this image alone
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, and more
        raise ImageReadError(f"{file_name}: cannot be read as {kind}: {error}") from error


def _shows_zero_white(image: Image.Image, ids: np.ndarray) -> bool:
    """Whether the palette's picture is the negative of its numbers; programs that reduce colours
    number them as they like.
    """
    if image.mode != "P":
        return False
    palette = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    used = palette[np.union1d([0], ids[ids < len(palette)])]
    is_grey = bool((used == used[:, :1]).all())
    return is_grey and used[0, 0] >= 128 and bool((used[1:, 0] < used[0, 0]).all())


def _to_array(image: Image.Image, image_format: str) -> np.ndarray:
    if image_format == "BGR":  # as Detectron2 does it, but 20 times faster
        colors = image if image.mode == "RGB" else image.convert("RGB")
        return cv2.cvtColor(np.asarray(colors), cv2.COLOR_RGB2BGR)
    return detection_utils.convert_PIL_to_numpy(image, image_format)


def _to_8_bit(image: Image.Image, file_name: str, report: ProblemReport) -> Image.Image:
    """Pillow would clip 16-bit values at 255; their high byte is the picture."""
    if image.mode == "F":
        raise ValueError("found floating-point pixels, expected 8-bit or 16-bit integers")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"found pixel values {values.min()}..{values.max()}, expected 0..65535 at most"
        )
    if 0 < values.max() < 256:
        details = (
            f"found values {values.min()}..{values.max()}, expected them up to 65535; scale them"
        )
        report.add(DARK_16_BIT, file_name, details)
    eight_bit = Image.fromarray((values >> 8).astype(np.uint8))
    eight_bit.info.update(image.info)  # keeps the EXIF orientation
    return eight_bit


def _size(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
