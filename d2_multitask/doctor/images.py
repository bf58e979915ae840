"""Image files: missing and unreadable ones, copies, and images that are in training and in test.

Copies are found by content: the same bytes, or nearly the same picture at 16x16 grey values, which
survives another size, another quality and the loss of its colours, but no crop.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
from PIL import Image

from d2_multitask.data.labels.base import spread
from d2_multitask.doctor import mend
from d2_multitask.doctor.findings import ERROR, NOTE, WARNING, Finding
from d2_multitask.doctor.tables import Table

# Of a set so many pictures are opened, 2 ms each; all files are looked for, and compared by bytes.
MAX_PICTURES = 10_000
SIDE = 16
# Correlation of grey values. Copies of another size or quality: 0.998 at least; other photographs:
# 0.92 at most (COCO, ECSSD, synthetic); successive frames of a video: up to 0.996.
MIN_CORRELATION = 0.99
MIN_CONTRAST = 2.0  # grey values; below it a picture is of one colour, like many others
MAX_LISTED = 200  # images in a line to paste
_HEAD, _BLOCK = 4096, 1024  # bytes, and pictures, that are compared at once
_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # EXIF

Place = tuple[int, int]
"""A table, and an image in it."""


def check(tables: Sequence[Table]) -> Iterator[Finding]:
    """All checks of files."""
    files = [[str(record.get("file_name", "")) for record in t.records] for t in tables]
    sizes = [[_num_bytes(file) for file in of_set] for of_set in files]
    pictures: dict[Place, np.ndarray] = {}
    with ThreadPool(os.cpu_count()) as pool:
        for index, table in enumerate(tables):
            bad = {i: "there is no such file" for i, n in enumerate(sizes[index]) if n < 0}
            there = [i for i in range(len(table.records)) if i not in bad]
            shown = list(spread(there, MAX_PICTURES))
            opened = pool.map(_picture, [(files[index][i], table.sizes[i]) for i in shown], 16)
            for i, found in zip(shown, opened, strict=True):
                if isinstance(found, str):
                    bad[i] = found
                elif found is not None:
                    pictures[index, i] = found
            yield from _unreadable(table, files[index], bad)
            if len(shown) < len(there):
                text = f"{len(there)} pictures, of which {len(shown)} were opened"
                yield Finding(NOTE, "images/sample", table.name, text)
    groups = _same_bytes(files, sizes)
    same = {pair for group in groups for pair in itertools.combinations(group, 2)}
    # Of many copies of one picture only the first is compared with others.
    others = pictures.keys() - {place for group in groups for place in group[1:]}
    alike = _alike({place: pictures[place] for place in sorted(others)})
    yield from _copies(tables, files, same, "the same bytes", (ERROR, WARNING))
    yield from _copies(tables, files, alike - same, "nearly the same picture", (WARNING, NOTE))


def _num_bytes(file: str) -> int:
    """-1: not there; 0: somewhere else, such as on the web."""
    try:
        return os.stat(file).st_size
    except (OSError, ValueError):
        return 0 if "://" in file else -1


def _picture(task: tuple[str, np.ndarray]) -> np.ndarray | str | None:
    """(SIDE * SIDE,) normalised grey values; what is wrong, as text; ``None`` for one colour."""
    file, size = task
    if "://" in file:
        return None
    try:
        with Image.open(file) as image:
            shape, orientation = image.size, image.getexif().get(_ORIENTATION, 1)
            image.draft("L", (4 * SIDE, 4 * SIDE))  # of JPEG an eighth of the pixels is decoded
            grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, and more
        return f"cannot be read: {error}"
    width, height = expected = size[::-1].tolist()
    shapes = [list(shape), list(shape[::-1] if orientation >= _FIRST_TURNED else shape)]
    if size.all() and expected not in shapes:
        return f"found {shape[0]}x{shape[1]}, expected {width}x{height} (width x height)"
    values = np.asarray(grey, dtype=np.float32).reshape(-1)
    values = values - values.mean()
    return None if values.std() < MIN_CONTRAST else values / np.linalg.norm(values)


def _unreadable(table: Table, files: Sequence[str], bad: dict[int, str]) -> Iterator[Finding]:
    if bad:
        severity = ERROR if table.is_test or len(bad) == len(files) else WARNING
        text = "image files that cannot be used: evaluation stops at them, training takes others"
        found = [f"{files[i]}: {bad[i]}" for i in list(bad)[:3]]
        counts, mended = (len(bad), len(files)), _without(table, bad)
        yield Finding(severity, "images/unreadable", table.name, text, *counts, found, mended)


def _same_bytes(
    files: Sequence[Sequence[str]], sizes: Sequence[Sequence[int]]
) -> list[list[Place]]:
    """Groups of images with the same bytes; only files of the same length are read."""
    groups: dict[Any, list[Place]] = defaultdict(list)
    for table, of_set in enumerate(sizes):
        for i, size in enumerate(of_set):
            if size > 0:
                groups[size].append((table, i))
    for read in (_middle, _digest):
        finer: dict[Any, list[Place]] = defaultdict(list)
        for key, group in groups.items():
            if len(group) > 1:
                paths = {place: os.path.realpath(files[place[0]][place[1]]) for place in group}
                several = set(paths.values())
                known = {path: read(path) for path in several} if len(several) > 1 else {}
                for place, path in paths.items():
                    finer[key, known.get(path)].append(place)
        groups = finer
    return [group for group in groups.values() if len(group) > 1]


def _middle(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(os.stat(path).st_size // 2 - _HEAD // 2, 0))
        return file.read(_HEAD)


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _alike(pictures: dict[Place, np.ndarray]) -> set[tuple[Place, Place]]:
    """Pairs of images that correlate."""
    places, found = list(pictures), set()
    values = np.array(list(pictures.values())).reshape(-1, SIDE * SIDE)
    for start in range(0, len(values), _BLOCK):
        alike = values[start : start + _BLOCK] @ values[start:].T >= MIN_CORRELATION
        for i, j in zip(*np.nonzero(np.triu(alike, 1)), strict=True):
            found.add((places[start + i], places[start + j]))
    return found


def _copies(
    tables: Sequence[Table],
    files: Sequence[Sequence[str]],
    pairs: Collection[tuple[Place, Place]],
    how: str,
    severities: tuple[str, str],
) -> Iterator[Finding]:
    """Copies in one set, and in sets for training and for test.

    ``severities`` are that of a leak and that of copies in one set.
    """
    of_sets: dict[Place, list[Place]] = defaultdict(list)
    for (a, i), (b, j) in sorted(pairs):  # training sets are in front
        of_sets[a, b].append((i, j))
    for (a, b), found in of_sets.items():
        first, second = tables[a], tables[b]
        is_leak = first.is_train and second.is_test and not second.is_train
        severity = severities[1] if a == b else severities[0] if is_leak else NOTE
        images = {j for _, j in found} if a == b else {i for i, _ in found}
        where = first.name if a == b else f"{first.name} and {second.name}"
        text = "images of training and of test" if is_leak else "images"
        text += f" are {how}" + ("; the results say nothing" if is_leak else "")
        examples = [f"{files[a][i]} and {files[b][j]}" for i, j in found[:3]]
        check = "images/leak" if is_leak else "images/copies"
        mended = _without(first, images) if severity != NOTE else ""
        counts = len(images), len(first.records)
        yield Finding(severity, check, where, text, *counts, examples, mended)


def _without(table: Table, images: Collection[int]) -> str:
    """The line that leaves images out."""
    records = [table.records[i] for i in sorted(images)]
    if len(records) > MAX_LISTED or len(records) == len(table.records):
        return ""
    if table.metadata.get("evaluator_type") in ("image_folder", "mask_folder"):
        names = [record["file_name"] for record in records]
        return "\n".join(f"mv '{name}' '{name}.left_out'" for name in names)
    return mend.call(mend.without_images, table.name, [r.get("image_id") for r in records])
