"""PASCAL in Detail -> COCO JSON and PNG maps, for other tools.

    <output>/
      annotations/instances_<phase>.json          boxes and masks of the 20 classes
      annotations/person_keypoints_<phase>.json   people only, with joints (if the file has any)
      sem_seg/<image>.png                         0..58 in VOC-first order, 255 = no label
      part_seg/<image>.png                        0..6, 255 = person without part labels
      boundary/<image>.png                        1 = boundary, 0 = none

Maps that an image is not labelled with are not written. The JSON keeps the file's category ids and
joint coordinates; visibility is COCO's. Occlusion has no common format and is not converted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from d2_multitask.data.datasets.pascal_in_detail import keep_people, read_phase
from d2_multitask.data.datasets.pascal_in_detail.annotation_file import (
    AnnotationFile,
    phase_counts,
    read_annotation_file,
)
from d2_multitask.data.datasets.pascal_in_detail.names import (
    ANIMAL_CLASSES,
    KEYPOINT_CONNECTION_RULES,
    KEYPOINT_NAMES,
    pascal_in_detail_metadata,
)
from d2_multitask.data.folder_lock import FolderLock
from d2_multitask.data.labels.edges import BoundaryLabel
from d2_multitask.data.labels.masks import MaskError, to_rle
from d2_multitask.data.labels.sem_seg import PartSegLabel, SemSegLabel
from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.data.whole_files import write_json, write_png
from d2_multitask.engine.setup import progress_bar

Record = dict[str, Any]

MAPS = (SemSegLabel(), PartSegLabel(), BoundaryLabel())


def convert_file(
    annotation_file: str | Path,
    output: str | Path,
    phases: Sequence[str] = (),
    *,
    maps: bool = True,
) -> list[Path]:
    """Convert a file.

    Args:
        annotation_file: in PASCAL in Detail's layout.
        output: folder; files in it that have the same names are replaced.
        phases: "train", "val"; empty = those that the file has.
        maps: also write the PNG maps.

    Returns:
        The paths of the JSON files.

    Raises:
        ValueError: the file cannot be used, or has no image of a phase.
        LockHeldError: another process writes there.
    """
    file = read_annotation_file(str(annotation_file))
    DATA_REPORT.extend(file.problems)
    file.problems.clear()
    known = phase_counts(file)
    phases = tuple(phases) or tuple(p for p in ("train", "val") if p in known)
    with FolderLock(Path(output)):
        return _write(Path(output), file, phases, maps)


def _write(
    output: Path,
    file: AnnotationFile,
    phases: Sequence[str],
    maps: bool,
) -> list[Path]:
    paths = []
    loaded = {phase: read_phase(file, "", phase) for phase in phases}
    for phase, part in loaded.items():
        DATA_REPORT.extend(part.problems)
        kinds = {"instances": False}
        if part.matches is not None:
            kinds["person_keypoints"] = True
        for kind, person_only in kinds.items():
            paths.append(output / "annotations" / f"{kind}_{phase}.json")
            write_json(paths[-1], coco_json(part.dataset_dicts, person_only))
    if maps:
        everything = [record for part in loaded.values() for record in part.dataset_dicts]
        _write_maps(output, everything)
    return paths


def coco_json(records: Sequence[Record], person_only: bool) -> dict[str, Any]:
    """COCO's format for the loader's dicts.

    Args:
        records: of one phase, with all 20 classes.
        person_only: people with their joints only; images without people stay.
    """
    metadata = pascal_in_detail_metadata(person_only)
    category_ids = list(metadata["thing_dataset_id_to_contiguous_id"])
    categories = [
        {
            "id": category_id,
            "name": name,
            "supercategory": "animal" if name in ANIMAL_CLASSES else "object",
        }
        for category_id, name in zip(category_ids, metadata["thing_classes"], strict=True)
    ]
    if person_only:
        index = {name: number for number, name in enumerate(KEYPOINT_NAMES, start=1)}
        edges = [[index[a], index[b]] for a, b, _ in KEYPOINT_CONNECTION_RULES]
        categories[0].update(keypoints=list(KEYPOINT_NAMES), skeleton=edges)
    images, annotations = [], []
    for record in records:
        images.append(
            {
                "id": record["image_id"],
                "file_name": os.path.basename(record["file_name"]),
                "height": record["height"],
                "width": record["width"],
            }
        )
        record = dict(record)
        if person_only:
            keep_people(record)
        for annotation in record.get("annotations", ()):
            entry = _coco_annotation(annotation, record, person_only)
            entry["category_id"] = category_ids[annotation["category_id"]]
            annotations.append(entry)
    _number(annotations)
    return {"images": images, "annotations": annotations, "categories": categories}


def _coco_annotation(annotation: Record, record: Record, with_joints: bool) -> dict[str, Any]:
    entry = {
        "id": annotation.get("annotation_id"),
        "image_id": record["image_id"],
        "bbox": annotation["bbox"],
        "iscrowd": annotation["iscrowd"],
        "area": annotation["bbox"][2] * annotation["bbox"][3],
    }
    if "segmentation" in annotation:
        try:
            rle = to_rle(annotation["segmentation"], record["height"], record["width"])
        except MaskError:  # checked by the loader, so this is not to be expected
            return entry
        counts = rle["counts"]
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        entry["segmentation"] = {"size": list(rle["size"]), "counts": counts}
        entry["area"] = int(mask_util.area(rle))
    if with_joints:
        joints = np.array(annotation.get("keypoints", ()), dtype=np.float64).reshape(-1, 3)
        joints[joints[:, 2] > 0, :2] -= 0.5
        entry["keypoints"] = joints.round(2).reshape(-1).tolist()
        entry["num_keypoints"] = int((joints[:, 2] > 0).sum())
    return entry


def _number(annotations: list[dict[str, Any]]) -> None:
    """Keep the file's annotation ids if they are usable as COCO's; else count from 1."""
    ids = [a["id"] for a in annotations]
    if len(set(map(str, ids))) < len(ids) or not all(isinstance(i, int) and i > 0 for i in ids):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number


def _write_maps(output: Path, records: Sequence[Record]) -> None:
    for record in progress_bar(records, unit="image"):
        stem = Path(record["file_name"]).stem
        for label in MAPS:
            values = label.read(record)
            if values is not None:
                write_png(output / label.key / f"{stem}.png", values, compress_level=6)
