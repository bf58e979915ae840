"""Image files: missing and unreadable ones, copies, and images that are in training and in test.

Copies are found by content: the same bytes, or nearly the same picture at 16x16 grey values, which
survives another size, another quality and the loss of its colours, but no crop.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
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
_HEAD, _BLOCK = 4096, 512  # bytes, and pictures, that are compared at once
_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # EXIF

Pairs = Mapping[tuple[int, int], Mapping[int, int]]
"""Two tables, maybe the same -> an image of the first, and one of the second that it is like."""


def check(tables: Sequence[Table]) -> Iterator[Finding]:
    """All checks of files. Training sets are in front."""
    files = [[str(record.get("file_name", "")) for record in t.records] for t in tables]
    sizes = [[_num_bytes(file) for file in of_set] for of_set in files]
    pictures: list[dict[int, np.ndarray]] = []
    with ThreadPool(os.cpu_count()) as pool:
        for table, names, of_set in zip(tables, files, sizes, strict=True):
            bad = {i: "there is no such file" for i, n in enumerate(of_set) if n < 0}
            shown = list(spread([i for i in range(len(names)) if i not in bad], MAX_PICTURES))
            opened = pool.map(_picture, [(names[i], table.sizes[i]) for i in shown], 16)
            found = dict(zip(shown, opened, strict=True))
            bad |= {i: text for i, text in found.items() if isinstance(text, str)}
            pictures.append({i: x for i, x in found.items() if isinstance(x, np.ndarray)})
            if bad:
                severity = ERROR if table.is_test or len(bad) == len(names) else WARNING
                text = "image files that cannot be used; evaluation stops, training takes others"
                examples, counts = [f"{names[i]}: {bad[i]}" for i in bad], (len(bad), len(names))
                check, mended = "images/unreadable", _without(table, bad)
                yield Finding(severity, check, table.name, text, *counts, examples, mended)
    same, near = _same_bytes(files, sizes), _alike(pictures)
    alike = {p: {i: j for i, j in found.items() if i not in same[p]} for p, found in near.items()}
    yield from _copies(tables, files, same, "the same bytes", (ERROR, WARNING))
    yield from _copies(tables, files, alike, "nearly the same picture", (WARNING, NOTE))


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
    height, width = size.tolist()
    shapes = (shape, shape[::-1] if orientation >= _FIRST_TURNED else shape)
    if size.all() and (width, height) not in shapes:
        return f"found {shape[0]}x{shape[1]}, expected {width}x{height} (width x height)"
    values = np.asarray(grey, dtype=np.float32).reshape(-1)
    values = values - values.mean()
    return None if values.std() < MIN_CONTRAST else values / np.linalg.norm(values)


def _same_bytes(files: Sequence[Sequence[str]], sizes: Sequence[Sequence[int]]) -> Pairs:
    """Only files of the same length are read."""
    paths = [
        [os.path.realpath(file) if size > 0 else "" for file, size in zip(*of_set, strict=True)]
        for of_set in zip(files, sizes, strict=True)
    ]
    keys: dict[str, Any] = {p: os.stat(p).st_size for of_set in paths for p in of_set if p}
    for read in (_middle, _digest):
        counts = Counter(keys.values())
        keys = {p: (key, read(p)) if counts[key] > 1 else p for p, key in keys.items()}
    pairs = {}
    for b, of_set in enumerate(paths):
        first: dict[Any, int] = {}
        for j, path in enumerate(of_set):
            first.setdefault(keys.get(path), j)
        for a in range(b + 1):
            found = {i: first.get(keys[path]) for i, path in enumerate(paths[a]) if path}
            is_other = {i: j for i, j in found.items() if j is not None and (a, i) != (b, j)}
            pairs[a, b] = is_other
    return pairs


def _middle(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(os.stat(path).st_size // 2 - _HEAD // 2, 0))
        return file.read(_HEAD)


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _alike(pictures: Sequence[Mapping[int, np.ndarray]]) -> Pairs:
    values = [np.array(list(p.values())).reshape(-1, SIDE * SIDE) for p in pictures]
    indices = [list(p) for p in pictures]
    pairs: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
    for b in range(len(values)):
        for a in range(b + 1):
            for start in range(0, len(values[a]), _BLOCK):
                like = values[a][start : start + _BLOCK] @ values[b].T >= MIN_CORRELATION
                if a == b:  # with those in front of it alone
                    like = np.tril(like, start - 1)
                for row in np.flatnonzero(like.any(axis=1)):
                    pairs[a, b][indices[a][start + row]] = indices[b][like[row].argmax()]
    return pairs


def _copies(
    tables: Sequence[Table],
    files: Sequence[Sequence[str]],
    pairs: Pairs,
    how: str,
    severities: tuple[str, str],
) -> Iterator[Finding]:
    """``severities`` are that of a leak from training to test, and that of copies in one set."""
    for (a, b), found in pairs.items():
        first, second = tables[a], tables[b]
        is_leak = first.is_train and second.is_test and not second.is_train
        severity = severities[1] if a == b else severities[0] if is_leak else NOTE
        where = first.name if a == b else f"{first.name} and {second.name}"
        text = "images of training and of test" if is_leak else "images"
        text += f" are {how}" + ("; the results say nothing" if is_leak else "")
        examples = [f"{files[a][i]} and {files[b][found[i]]}" for i in list(found)[:3]]
        check = "images/leak" if is_leak else "images/copies"
        if found:
            mended = _without(first, found) if severity != NOTE else ""
            counts = len(found), len(first.records)
            yield Finding(severity, check, where, text, *counts, examples, mended)


def _without(table: Table, images: Collection[int]) -> str:
    """The line that leaves images out."""
    records = [table.records[i] for i in sorted(images)]
    if len(records) > MAX_LISTED or len(records) == len(table.records):
        return ""
    if table.metadata.get("evaluator_type") in ("image_folder", "mask_folder"):
        names = [str(record["file_name"]) for record in records]
        return "\n".join(shlex.join(["mv", name, f"{name}.left_out"]) for name in names)
    return mend.rewriting(table.name, without_images=[r.get("image_id") for r in records])
