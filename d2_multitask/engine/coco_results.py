"""Results in COCO's JSON formats: objects with boxes and keypoints, and semantic classes as RLE."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances

from d2_multitask.data.datasets.coco_annotations import as_id
from d2_multitask.data.datasets.coco_json import read_json
from d2_multitask.data.labels.masks import encode
from d2_multitask.data.whole_files import write_json
from d2_multitask.evaluation.coco.predictions import coco_results
from d2_multitask.runtime.files import numbers_of


class CocoResults:
    """Collects results image by image and writes three files.

    ``FILE.json`` is COCO's list of results, which ``pycocotools``' ``loadRes`` takes: ``image_id``,
    ``category_id``, ``bbox`` (x, y, w, h), ``score`` and, from networks with a pose head,
    ``keypoints`` (x, y, score, ...; pixel indices, so that 0, 0 is the middle of the first pixel),
    with ``MODEL.MASK_ON`` ``segmentation`` (RLE).
    ``FILE_sem_seg.json`` is a list of ``image_id``, ``category_id``, ``segmentation`` (RLE), one
    entry a semantic class that is in the image, background left out.
    ``FILE_images.json`` is a list of ``id``, ``file_name``, ``width``, ``height``.

    Args:
        metadata: turns class numbers into the dataset's category ids
            (``thing_dataset_id_to_contiguous_id``); without it a class number + 1 is written.
    """

    def __init__(self, metadata: Metadata) -> None:
        ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        self._category_ids = {contiguous: original for original, contiguous in ids.items()}
        self._stuff_classes = metadata.get("stuff_classes") or ()
        self.objects: list[dict[str, Any]] = []
        self.sem_seg: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []

    def add(
        self,
        image_id: int | str,
        file_name: str,
        image_hw: tuple[int, int],
        instances: Instances | None,
        classes: np.ndarray | None,
    ) -> None:
        """Add one image.

        Args:
            image_id: its id in the written files.
            file_name: as the user knows it.
            image_hw: (h, w).
            instances: ``pred_boxes``, ``scores``, ``pred_classes``, maybe ``pred_keypoints``
                and ``pred_masks``.
            classes: (h, w) semantic classes, or ``None``.
        """
        height, width = image_hw
        self.images.append(
            {"id": image_id, "file_name": file_name, "width": width, "height": height}
        )
        if instances is not None:
            for entry in coco_results(instances.to("cpu"), image_id):
                number = entry["category_id"]
                entry["category_id"] = self._category_ids.get(number, number + 1)
                self.objects.append(entry)
        if classes is not None:
            self.sem_seg += self._class_entries(image_id, classes)

    def write(self, path: Path) -> list[Path]:
        """Write the files; what no task gave is not written.

        Returns:
            The paths, the objects' (or, without any, the semantic classes') first.
        """
        contents = (("", self.objects), ("_sem_seg", self.sem_seg), ("_images", self.images))
        paths = []
        for suffix, entries in contents:
            if suffix == "_sem_seg" and not entries:
                continue
            paths.append(path.with_name(f"{path.stem}{suffix}{path.suffix or '.json'}"))
            write_json(paths[-1], entries)
        return paths

    def _class_entries(self, image_id: int | str, classes: np.ndarray) -> list[dict[str, Any]]:
        entries = []
        for class_id in np.unique(classes).tolist():
            if class_id == 0 and self._stuff_classes[:1] == ["background"]:
                continue
            mask = encode(classes == class_id)
            entries.append({"image_id": image_id, "category_id": class_id, "segmentation": mask})
        return entries


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
