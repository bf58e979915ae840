"""Atomic writing: a stopped program leaves no file with a part of its content."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

UNFINISHED = ".part"
"""Suffix of a file that is being written."""


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a path to write to, which is renamed to ``path`` at the end.

    Folders are created. If the block raises, the unfinished file is removed and ``path`` is not
    changed; if the process is killed, an unfinished file may remain beside it.

    Args:
        path: the file to write.
        durable: flush it to the disk before, against power failures; takes some milliseconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        yield unfinished
        if durable:
            with open(unfinished, "rb") as file:
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # "no space left" comes without the path
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_png(path: Path, pixels: np.ndarray, compress_level: int = 1) -> None:
    """Write an image.

    Args:
        path: the file.
        pixels: (H, W) or (H, W, 3) uint8, or (H, W) uint16.
        compress_level: noise is hardly compressed: with 1, files are nearly as small as with 9, and
            writing is much faster.
    """
    with whole_file(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, format="PNG", compress_level=compress_level)


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    """Write a JSON file; without ``indent`` on one line."""
    separators = (",", ":") if indent is None else None
    write_text(path, json.dumps(content, separators=separators, indent=indent))
