"""The file level of COCO's format: a JSON object with images that have an id, a name and a size."""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from detectron2.utils.file_io import PathManager

from d2_multitask.data.datasets.json_values import as_file_name, as_id, as_integer, shown
from d2_multitask.data.io import ImageReadError, image_size
from d2_multitask.data.problems import Problem

SIZE_OF_FILE = "image without width and height, taken from its file"
SAME_IMAGE_TWICE = "image listed twice, one entry left out"

# pycocotools counts a mask's pixels in 32 bits.
_MAX_SIDE, _MAX_PIXELS = 1_000_000, 2**32 - 1


def read_json(
    json_file: str, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        json_file: its path.
        object_hook: as for ``json.load``; may make objects smaller while the file is read.

    Raises:
        ValueError: the file is missing, broken, or holds something else.
    """
    if not PathManager.isfile(json_file):
        raise ValueError(
            f"{json_file}: there is no such file; expected the annotations, a JSON file. Datasets "
            "that come with a name live below $DETECTRON2_DATASETS (default: ./datasets), see "
            "datasets/README.md."
        )
    try:
        # -sig: Windows' editors put a byte order mark in front.
        with PathManager.open(json_file, "r", encoding="utf-8-sig") as file, no_collection():
            content = json.load(file, object_pairs_hook=_unique_keys(object_hook))
    except RecursionError as error:
        raise ValueError(
            f"{json_file}: found lists or objects nested too deep; COCO's format has five levels"
        ) from error
    except ValueError as error:  # also other encodings and integers of thousands of digits
        raise ValueError(f"{json_file}: found broken JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{json_file}: found {type(content).__name__}, expected an object")
    return content


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Annotations have no cycles; looking for them takes a third of the time of a large file."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _unique_keys(
    object_hook: Callable[[dict[str, Any]], Any] | None,
) -> Callable[[list[tuple[str, Any]]], Any]:
    """A hook for ``json.load`` that allows no key with two values in one object."""

    def make(pairs: list[tuple[str, Any]]) -> Any:
        entry = dict(pairs)
        if len(entry) != len(pairs):
            for key, value in pairs:
                if entry[key] != value:
                    raise ValueError(
                        f"key {key!r} twice in one object, with {shown(value)} and "
                        f"{shown(entry[key])}; expected each key once"
                    )
        return entry if object_hook is None else object_hook(entry)

    return make


def read_images(
    content: Mapping[str, Any],
    dataset_name: str,
    json_file: str,
    image_root: str,
    problems: list[Problem],
) -> dict[int | str, dict[str, Any]]:
    """Read the field ``images``.

    Args:
        content: the JSON.
        dataset_name: for messages.
        json_file: for messages.
        image_root: folder that the file names are relative to.
        problems: entries that were listed twice, or say no size, are added here.

    Returns:
        Image id -> Detectron2's dict with ``file_name, image_id, height, width``, in file order.

    Raises:
        ValueError: the list is missing or empty, an image lacks a field, or two different images
            have the same id, so that it is not known whose the annotations are.
    """
    images = content.get("images")
    if not isinstance(images, list):
        raise ValueError(
            f"{json_file}: field 'images': found {type(images).__name__}, expected a list"
        )
    if not images:
        raise ValueError(
            f"{json_file}: field 'images' is empty, so dataset {dataset_name!r} is empty; "
            "expected at least one image"
        )
    records: dict[int | str, dict[str, Any]] = {}
    for index, image in enumerate(images):
        where = f"{json_file}: images[{index}]"
        record = _read_image(image, image_root, where, problems)
        known = records.setdefault(record["image_id"], record)
        if known is record:
            continue
        if known != record:
            raise ValueError(
                f"{where}: field 'id': found {record['image_id']!r}, which {known['file_name']} "
                "has too; expected a different id for each image"
            )
        problems.append(Problem(SAME_IMAGE_TWICE, where, f"field 'id': {record['image_id']!r}"))
    return records


def _read_image(image: Any, image_root: str, where: str, problems: list[Problem]) -> dict[str, Any]:
    if not isinstance(image, dict):
        raise ValueError(f"{where}: found {type(image).__name__}, expected an object")
    image_id, file_name = as_id(image.get("id")), image.get("file_name")
    if image_id is None:
        raise ValueError(
            f"{where}: field 'id': found {shown(image.get('id'))}, expected a number of at most "
            "64 bits, or text"
        )
    if as_file_name(file_name) is None:
        raise ValueError(
            f"{where}: field 'file_name': found {shown(file_name)}, expected a file name"
        )
    record: dict[str, Any] = {
        "file_name": _path(image_root, file_name),
        "image_id": image_id,
    }
    sizes = {field: image.get(field) for field in ("height", "width")}
    if all(size in (None, -1, 0) for size in sizes.values()):  # VIA 3 writes -1
        sizes = _sizes_of_file(record["file_name"], where, problems) or sizes
    for field, value in sizes.items():
        size = as_integer(value)
        if size is None or not 1 <= size <= _MAX_SIDE:
            raise ValueError(
                f"{where} ({file_name}): field '{field}': found {shown(value)}, "
                f"expected a number of pixels from 1 to {_MAX_SIDE}"
            )
        record[field] = size
    if record["height"] * record["width"] > _MAX_PIXELS:
        raise ValueError(
            f"{where} ({file_name}): fields 'height', 'width': found {record['height']} x "
            f"{record['width']}, expected at most {_MAX_PIXELS} pixels"
        )
    return record


def _path(image_root: str, file_name: str) -> str:
    """The file; exports that were made on Windows may have its separators."""
    path = os.path.join(image_root, file_name)
    if "\\" in file_name and os.sep == "/" and not PathManager.exists(path):
        return os.path.join(image_root, file_name.replace("\\", "/"))
    return path


def _sizes_of_file(path: str, where: str, problems: list[Problem]) -> dict[str, int] | None:
    try:
        height, width = image_size(path)
    except ImageReadError:
        return None
    problems.append(Problem(SIZE_OF_FILE, where, f"fields 'height', 'width': {height} x {width}"))
    return {"height": height, "width": width}
