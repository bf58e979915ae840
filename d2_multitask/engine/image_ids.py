"""Ids of images in the JSON files of `d2mt predict`: the dataset's, where it knows the images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.data import Metadata

from d2_multitask.data.datasets.coco_annotations import as_id
from d2_multitask.data.datasets.coco_json import read_json
from d2_multitask.runtime.files import numbers_of


def known_image_ids(metadata: Metadata) -> dict[str, int | str]:
    """File name -> image id of the dataset's own JSON; empty if there is no such file.

    Raises:
        ValueError: the file is broken.
    """
    json_file = metadata.get("json_file")
    if not json_file or not Path(json_file).is_file():
        return {}
    images = read_json(json_file).get("images", ())
    known: dict[str, int | str] = {}
    for image in images:
        image_id, name = as_id(image.get("id")), image.get("file_name")
        if image_id is not None and isinstance(name, str):
            known.setdefault(_path_endings(name)[0], image_id)
    return known


def image_ids(
    file_names: Sequence[str], known: Mapping[str, int | str] | None = None
) -> list[int | str]:
    """Ids for the images of a run, one rule for all of them.

    Args:
        file_names: of the images.
        known: from `known_image_ids`. A file is the entry with which its path ends, folders
            included.

    Returns:
        The dataset's ids if it knows every image, each as another one; else the numbers that the
        names are, as in ``000000000785.jpg``, if all are different numbers; else 1, 2, 3, ...
    """
    known = known or {}
    ids = [
        next((known[end] for end in _path_endings(os.path.abspath(name)) if end in known), None)
        for name in file_names
    ]
    if None not in ids and len(set(ids)) == len(ids):
        return ids
    return numbers_of(file_names)


def _path_endings(path: str) -> list[str]:
    """The path, and what is left without its first folder, its first two, and so on."""
    parts = [part for part in Path(os.path.normpath(path)).parts if part != os.pardir]
    return ["/".join(parts[start:]) for start in range(len(parts))] or [""]
