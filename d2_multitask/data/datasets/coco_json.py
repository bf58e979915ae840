"""The file level of COCO's format: a JSON object with images (id, name, size) and categories
(classes, keypoints, left/right pairs, skeleton).
"""

from __future__ import annotations

import colorsys
import contextlib
import gc
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathManager

from d2_multitask.data.datasets.coco_annotations import (
    as_category_id,
    as_file_name,
    as_id,
    as_integer,
    is_text,
)
from d2_multitask.data.datasets.keypoint_flips import find_flip_pairs, partners_of
from d2_multitask.data.io import ImageReadError, image_size
from d2_multitask.data.problems import Problem, shown

SIZE_OF_FILE = "image without width and height, taken from its file"
ConnectionRule = tuple[str, str, tuple[int, int, int]]

SKELETON_PROBLEM = "skeleton edge without keypoints, left out of pictures"
SAME_NAME = "name of another category, the id is added"
LONELY_SIDE_PROBLEM = "left or right keypoint without a partner, not swapped when images flip"
SAME_IMAGE_TWICE = "image listed twice, one entry left out"

# pycocotools counts a mask's pixels in 32 bits.
_MAX_SIDE, _MAX_PIXELS = 1_000_000, 2**32 - 1


def read_json(
    json_file: str, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    ``object_hook``, as for ``json.load``, may make objects smaller while the file is read.

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

    Entries that were listed twice, or say no size, are added to ``problems``.

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


def check_ids(where: str, images: Iterable[Mapping[str, Any]]) -> None:
    """
    Raises:
        ValueError: two images have one id; an image that is listed twice is none.
    """
    first_of: dict[Any, Mapping[str, Any]] = {}
    for image in images:
        image_id = as_id(image.get("id"))
        if first_of.setdefault(image_id, image) != image:
            raise ValueError(
                f"{where}: field 'images': found the id {shown(image_id)} twice, expected another "
                "id for each image"
            )


def check_map_names(where: str, file_names: Iterable[str]) -> None:
    """Maps are named as the images, without suffix.

    Raises:
        ValueError: two images would have one map.
    """
    names = Counter(os.path.splitext(name)[0] for name in file_names)
    for name in (name for name, number in names.items() if number > 1):
        raise ValueError(f"{where}: found two images called {name}, whose maps would be one file")


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


class Categories(NamedTuple):
    """The categories of one JSON.

    Attributes:
        contiguous_ids: the JSON's category id -> 0, 1, 2, ... in the order of the JSON's ids.
        thing_classes: names in that order.
        keypoint_names: keypoint names, the same for every category that has any; may be empty.
        keypoint_flip_map: (left, right) pairs of keypoint names.
        keypoint_connection_rules: (keypoint, keypoint, RGB colour) of the skeleton.
        problems: what was odd but usable.
    """

    contiguous_ids: dict[int, int]
    thing_classes: list[str]
    keypoint_names: list[str]
    keypoint_flip_map: list[tuple[str, str]]
    keypoint_connection_rules: list[ConnectionRule]
    problems: list[Problem]

    def as_metadata(self) -> dict[str, Any]:
        """The fields that Detectron2's MetadataCatalog knows; keypoints only if there are any."""
        values: dict[str, Any] = {
            "thing_classes": self.thing_classes,
            "thing_dataset_id_to_contiguous_id": self.contiguous_ids,
        }
        if self.keypoint_names:
            values["keypoint_names"] = self.keypoint_names
            values["keypoint_flip_map"] = self.keypoint_flip_map
            values["keypoint_connection_rules"] = self.keypoint_connection_rules
        return values


def read_categories(
    categories: Any,
    json_file: str,
    keypoint_flip_pairs: Sequence[Sequence[str]] | None = None,
) -> Categories:
    """Check and read the ``categories`` of a COCO-format JSON.

    Args:
        categories: the JSON's list; each needs ``id`` and ``name``, and may have ``keypoints``
            (keypoint names) and ``skeleton`` (pairs of keypoint numbers, counted from 1).
        json_file: for messages.
        keypoint_flip_pairs: (left, right) keypoint names that replace those found by name.

    Raises:
        ValueError: a field is missing, an id is used twice, categories differ in
            keypoints, or a given pair names none.
    """
    if not isinstance(categories, list) or not categories:
        raise ValueError(f"{json_file}: field 'categories': found nothing, expected a list of them")
    categories = [
        _checked_category(category, f"{json_file}: categories[{index}]")
        for index, category in enumerate(categories)
    ]
    ids = [category["id"] for category in categories]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{json_file}: categories: field 'id': {ids} is not unique")
    problems: list[Problem] = []
    categories = _with_unique_names(categories, json_file, problems)
    ordered = sorted(categories, key=lambda category: category["id"])
    with_keypoints = [category for category in ordered if category.get("keypoints")]
    names = list(with_keypoints[0]["keypoints"]) if with_keypoints else []
    for category in with_keypoints:
        if list(category["keypoints"]) != names:
            raise ValueError(
                f"{json_file}: field 'keypoints' of category {category['name']!r}: found "
                f"{category['keypoints']}, expected {names} as in category "
                f"{with_keypoints[0]['name']!r}; one network has one set of keypoints"
            )
    return Categories(
        contiguous_ids={category["id"]: i for i, category in enumerate(ordered)},
        thing_classes=[category["name"] for category in ordered],
        keypoint_names=names,
        keypoint_flip_map=_flip_map(keypoint_flip_pairs, names, json_file, problems),
        keypoint_connection_rules=_connection_rules(with_keypoints, names, json_file, problems),
        problems=problems,
    )


def _checked_category(category: Any, where: str) -> dict[str, Any]:
    """The category with its id as an integer."""
    if not isinstance(category, dict):
        raise ValueError(f"{where}: found {type(category).__name__}, expected an object")
    category_id, name = as_category_id(category.get("id")), category.get("name")
    if category_id is None:
        found = shown(category.get("id"))
        raise ValueError(f"{where}: field 'id': found {found}, expected int of 64 bits")
    if not is_text(name):
        raise ValueError(f"{where}: field 'name': found {shown(name)}, expected str")
    names = category.get("keypoints") or []
    if not isinstance(names, list) or not all(map(is_text, names)):
        found = shown(names)
        raise ValueError(f"{where}: field 'keypoints': found {found}, expected keypoint names")
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: field 'keypoints': a keypoint name of {names} is not unique")
    return {**category, "id": category_id}


def _with_unique_names(
    categories: Sequence[dict[str, Any]], json_file: str, problems: list[Problem]
) -> list[dict[str, Any]]:
    """A name that is taken gets its id.

    The last one keeps it: Roboflow's first category is the group, maybe called as a class in it.
    """
    taken: set[str] = set()
    result = []
    for category in reversed(categories):
        name = category["name"]
        while name in taken:
            name += f" ({category['id']})"
        if name != category["name"]:
            where = f"{json_file}: category {category['id']}"
            details = f"field 'name': found {category['name']!r} again, called {name!r}"
            problems.append(Problem(SAME_NAME, where, details))
        taken.add(name)
        result.append({**category, "name": name})
    return result[::-1]


def _flip_map(
    pairs: Sequence[Sequence[str]] | None,
    names: Sequence[str],
    json_file: str,
    problems: list[Problem],
) -> list[tuple[str, str]]:
    """The given pairs, checked, or those that are found by the names."""
    if pairs is not None:
        partners_of(f"{json_file}: flip pairs:", names, pairs)
        return [(left, right) for left, right in pairs]
    found, lonely = find_flip_pairs(names)
    for name in lonely:
        details = f"found {name!r}, expected its other side among {list(names)}"
        problems.append(Problem(LONELY_SIDE_PROBLEM, f"{json_file}: keypoint {name}", details))
    return found


def _connection_rules(
    categories: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    json_file: str,
    problems: list[Problem],
) -> list[ConnectionRule]:
    """Edges of the first category that has a skeleton, in evenly spread colours."""
    given = (category.get("skeleton") for category in categories)
    skeleton = next((value for value in given if value not in (None, [])), [])
    if not isinstance(skeleton, list):
        skeleton = [skeleton]  # which is no edge either
    edges = []
    for edge in skeleton:
        if _is_edge(edge, len(names)):
            edges.append((names[int(edge[0]) - 1], names[int(edge[1]) - 1]))
        else:
            details = f"found {shown(edge)}, expected two keypoint numbers from 1 to {len(names)}"
            where = f"{json_file}: field 'skeleton': edge {shown(edge)}"
            problems.append(Problem(SKELETON_PROBLEM, where, details))
    return [(a, b, _color(i / max(len(edges), 1))) for i, (a, b) in enumerate(edges)]


def _is_edge(edge: Any, num_keypoints: int) -> bool:
    return (
        isinstance(edge, list | tuple)
        and len(edge) == 2
        and all(1 <= (as_integer(keypoint) or 0) <= num_keypoints for keypoint in edge)
    )


def _color(hue: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
