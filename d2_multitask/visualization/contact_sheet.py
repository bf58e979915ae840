"""Putting pictures side by side: contact sheets, rows and captions."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

_BACKGROUND = 250
_TEXT = (40, 40, 46)


def contact_sheet(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    cell_width: int = 480,
    gap: int = 8,
) -> np.ndarray:
    """Arrange pictures of any sizes in a grid.

    Args:
        pictures: (h, w, 3) uint8 RGB each.
        captions: one text per picture, written above it.
        columns: pictures per row; by default as many as make the sheet about as wide as high.
        cell_width: width of a cell in pixels; pictures are scaled to fit into a cell that is no
            higher than wide.
        gap: pixels between cells.

    Raises:
        ValueError: no pictures, or another number of captions.
    """
    if not len(pictures):
        raise ValueError("contact_sheet: found no pictures, expected at least one")
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(f"contact_sheet: found {len(captions)} captions, expected {len(pictures)}")
    columns = columns or min(len(pictures), max(1, round((len(pictures) * 0.8) ** 0.5 + 0.3)))
    cells = [fit(picture, cell_width, cell_width) for picture in pictures]
    if captions is not None:
        cells = [with_caption(c, text) for c, text in zip(cells, captions, strict=True)]
    return stack_rows(
        [cells[i : i + columns] for i in range(0, len(cells), columns)], cell_width, gap
    )


def side_by_side(
    pictures: Sequence[np.ndarray], captions: Sequence[str] | None = None, *, cell_width: int = 480
) -> np.ndarray:
    """One row of pictures, see :func:`contact_sheet`."""
    return contact_sheet(pictures, captions, columns=len(pictures), cell_width=cell_width)


def stack_rows(rows: Sequence[Sequence[np.ndarray]], cell_width: int, gap: int) -> np.ndarray:
    """Rows of cells, none wider than ``cell_width``, each centred in its column."""
    columns = max(len(row) for row in rows)
    heights = [max(cell.shape[0] for cell in row) for row in rows]
    sheet = np.full(
        (sum(heights) + gap * (len(rows) + 1), columns * (cell_width + gap) + gap, 3),
        _BACKGROUND,
        np.uint8,
    )
    top = gap
    for row, row_height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            height, width = cell.shape[:2]
            left = gap + column * (cell_width + gap) + (cell_width - width) // 2
            y = top + (row_height - height) // 2
            sheet[y : y + height, left : left + width] = cell
        top += row_height + gap
    return sheet


def fit(picture: np.ndarray, max_width: int, max_height: int) -> np.ndarray:
    """Scale (h, w, 3) to touch the frame from inside, keeping its shape."""
    height, width = picture.shape[:2]
    scale = min(max_width / width, max_height / height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    if size == (width, height):
        return picture
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, size, interpolation=how)


def with_caption(picture: np.ndarray, text: str) -> np.ndarray:
    """Add a line of text above a picture; a text that is too long is cut in the middle."""
    width = picture.shape[1]
    size = int(np.clip(width / 24, 11, 22))
    font = _font(size)
    bar = Image.new("RGB", (width, round(size * 1.6)), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(bar)
    draw.text((2, round(size * 0.2)), _shortened(text, font, width - 4), font=font, fill=_TEXT)
    return np.concatenate([np.asarray(bar), picture])


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    text = " ".join(text.split())
    shown, keep = text, len(text)
    while font.getlength(shown) > width and keep > 2:
        keep -= 1
        shown = f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"
    return shown


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib brings this font along, so that captions look the same on every machine.
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
