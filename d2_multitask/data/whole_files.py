"""Files that are either whole or not there, whenever the program that writes them is stopped."""

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
"""What the name of a file ends with until it is whole."""


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a path to write to; at the end it takes the place of ``path`` in one step.

    Folders are made. If the block raises, the unfinished file is removed and ``path`` stays as it
    was; if the process is killed, an unfinished file may stay beside it.

    Args:
        path: the file that is to exist.
        durable: also after a power cut; takes some milliseconds.
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
            error.filename = str(path)  # a write says "no space left", not where
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
        compress_level: noise hardly shrinks: level 1 is nearly as small as 9 and much faster.
    """
    with whole_file(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, format="PNG", compress_level=compress_level)


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    """Write a JSON file; without ``indent`` on one line."""
    separators = (",", ":") if indent is None else None
    write_text(path, json.dumps(content, separators=separators, indent=indent))
