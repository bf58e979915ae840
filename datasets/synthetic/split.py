"""What all writers of synthetic datasets share: a dataset is made once, and is complete or absent.

A dataset is described by the arguments that decide its content. They are kept in the last file that
is written, as ``info.arguments``; so this file means that the dataset is complete, and tells if
it is the one that is asked for. What an interrupted run left is made again by the next one.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from d2_multitask.data.folder_lock import FolderLock
from d2_multitask.data.whole_files import UNFINISHED

logger = logging.getLogger(__name__)

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Is called with (images done, images in all)."""

MAX_IMAGES = 1_000_000
"""As many as numbers of six digits name."""


def as_json(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments as a JSON file gives them back: lists, not tuples."""
    return json.loads(json.dumps(arguments))


def check_split(name: str, num_images: int) -> None:
    """Raise ValueError for a name with other than letters, digits and "_", or a bad number."""
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"split: expected letters, digits and '_', got {name!r}")
    if not 1 <= num_images <= MAX_IMAGES:
        raise ValueError(f"num_images: expected 1 to {MAX_IMAGES:,}, got {num_images}")


def check_drawing(seed: int, num_workers: int) -> None:
    """Raise ValueError for a seed outside [0, 2**32), or less than one process."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected an integer in [0, 2**32), got {seed}")
    if num_workers < 1:
        raise ValueError(f"num_workers: expected at least 1, got {num_workers}")


def is_complete(
    last_file: Path, arguments: dict[str, Any], files: Iterable[Path], overwrite: bool
) -> bool:
    """Whether the dataset is there.

    Args:
        last_file: the JSON file that is written last.
        arguments: those asked for, see `as_json`.
        files: all other files of the dataset.
        overwrite: another dataset in its place is no error.

    Raises:
        ValueError: there is a dataset with other arguments, or a file of another kind.
    """
    if not last_file.exists():
        return False
    try:
        found = json.loads(last_file.read_text())["info"]["arguments"]
    except (ValueError, KeyError, TypeError):
        found = {}
    if found == arguments:
        return all(file.exists() for file in files)
    if overwrite:
        return False
    raise ValueError(
        f"{last_file}: info.arguments: this was made with other arguments "
        f"({_difference(found, arguments)}); pass overwrite=True (--overwrite on the command line) "
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


def remove_others(folder: Path, names: set[str]) -> None:
    """Remove numbered pictures, whole or not, that do not belong to a new dataset.

    Args:
        folder: it need not exist.
        names: of the files that stay.
    """
    ours = re.compile(rf"\d{{6}}\.png({re.escape(UNFINISHED)})?")
    for file in folder.iterdir() if folder.is_dir() else ():
        if ours.fullmatch(file.name) and file.name not in names:
            file.unlink()


def write_once(
    folder: Path,
    last_file: Path,
    arguments: dict[str, Any],
    files: Sequence[Path],
    draw: Callable[[int], tuple[int, T]],
    count: int,
    write_last: Callable[[list[T]], None],
    *,
    num_workers: int,
    overwrite: bool,
    progress: Progress | None,
) -> Path:
    """Make a dataset, unless it is complete; see `is_complete` and `draw_all`.

    Args:
        folder: of the dataset, which one process at a time may write.
        last_file: means that the dataset is complete.
        arguments: all that decides the content.
        files: all other files.
        draw: writes the files of one image.
        count: of images.
        write_last: writes ``last_file`` from what `draw` kept.
        num_workers: processes that draw.
        overwrite: replace a dataset with other arguments.
        progress: is called with (images done, images in all).

    Returns:
        ``last_file``.

    Raises:
        ValueError: there is another dataset.
        LockHeldError: another process writes there.
    """
    progress = progress or (lambda done, total: None)
    if is_complete(last_file, arguments, files, overwrite):
        logger.info("%s is complete, nothing to draw", last_file)
        progress(count, count)
        return last_file
    with FolderLock(folder):
        # From here on the dataset is incomplete, and must not look complete if it is interrupted.
        last_file.unlink(missing_ok=True)
        names: dict[Path, set[str]] = {}
        for file in files:
            names.setdefault(file.parent, set()).add(file.name)
        for parent, kept in names.items():
            remove_others(parent, kept)
        write_last(draw_all(draw, count, num_workers, progress))
    return last_file


def draw_all(
    draw: Callable[[int], tuple[int, T]], count: int, num_workers: int, progress: Progress
) -> list[T]:
    """``draw(0)`` ... ``draw(count - 1)`` in several processes.

    Args:
        draw: number -> the same number, and what is to be kept of the image.
        count: of images.
        num_workers: processes; 1 = this one.
        progress: is called after each image, and once before.

    Returns:
        (count,) what was kept, in the order of the numbers.
    """
    drawn: dict[int, T] = {}
    progress(0, count)
    for number, kept in _map_unordered(draw, count, num_workers):
        drawn[number] = kept
        progress(len(drawn), count)
    return [drawn[number] for number in range(count)]


def _map_unordered(draw: Callable[[int], T], count: int, num_workers: int) -> Iterator[T]:
    """``draw(0)`` ... ``draw(count - 1)``, in this process or in several, in any order."""
    if num_workers == 1:
        yield from map(draw, range(count))
        return
    # Forked processes need not import everything again; it is safe on Linux only.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Pool(num_workers, _start_worker, (os.getpid(),)) as pool:
        yield from pool.imap_unordered(draw, range(count), chunksize=4)
        # Not terminated, as `with` does: a signal that meets a starting worker may be lost.
        pool.close()
        pool.join()


def _start_worker(parent: int) -> None:
    """Leave interrupts to the parent, and end with it, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
