"""The labels of a dataset in COCO's format, by the rules of training.

They come from the registered dicts. Those of our own loader are complete. Other loaders of COCO
files (metadata ``json_file``) leave out ``area``, so the file is read again, by the rules of
training (`d2_multitask.data.datasets.coco_annotations`): objects that training leaves out are left
out, and regions that it ignores are ignored. Problems are in the data report already.

Coordinates are COCO's: boxes (x, y, w, h) in continuous pixels, keypoints as pixel indices.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode

from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.coco_annotations import BAD_MASK, ObjectReader, as_id
from d2_multitask.data.datasets.coco_json import read_json
from d2_multitask.data.labels.masks import MaskError, clean_segmentation, mask_area
from d2_multitask.data.problems import DATA_REPORT

CocoDict = dict[str, Any]


def coco_ground_truth(
    dataset_name: str, records: Sequence[dict[str, Any]] | None = None
) -> CocoDict:
    """The labels of a registered dataset.

    Args:
        dataset_name: registered name.
        records: its dicts, if they are loaded already.

    Returns:
        COCO's format: ``images``, ``categories`` and, if the dataset has object labels,
        ``annotations``, each with ``id``, ``area``, ``iscrowd``, ``keypoints`` and
        ``num_keypoints``; with ``segmentation`` where there is a mask.

    Raises:
        ValueError: the dataset cannot be read.
    """
    if records is None:
        records = load_dataset(dataset_name)  # checks the file, and publishes the metadata
    metadata = MetadataCatalog.get(dataset_name)
    labelled = any("annotations" in record for record in records)
    # Our loader's dicts have areas, those of Detectron2's do not.
    complete_dicts = labelled and all(
        "area" in a for r in records for a in r.get("annotations", ())
    )
    if metadata.get("json_file") and not complete_dicts:
        ground_truth = read_json(metadata.json_file)
        if "annotations" in ground_truth:
            ground_truth["annotations"] = _checked_annotations(ground_truth, metadata)
    else:
        ground_truth = _from_records(records, metadata)
        if not labelled:
            del ground_truth["annotations"]
    if "annotations" in ground_truth:
        complete(ground_truth["annotations"], len(metadata.get("keypoint_names") or ()))
    return ground_truth


def _from_records(records: Sequence[Mapping[str, Any]], metadata: Metadata) -> CocoDict:
    category_ids = _category_ids(metadata)
    names = metadata.thing_classes
    return {
        "images": coco_images(records),
        "categories": [{"id": i, "name": names[number]} for number, i in category_ids.items()],
        "annotations": [
            coco_annotation(label, record, category_ids[label["category_id"]])
            for record in records
            for label in record.get("annotations", ())
        ],
    }


def _checked_annotations(content: Mapping[str, Any], metadata: Metadata) -> list[CocoDict]:
    """The annotations that training keeps, in COCO's coordinates."""
    category_ids = _category_ids(metadata)
    contiguous_ids = metadata.thing_dataset_id_to_contiguous_id
    reader = ObjectReader(contiguous_ids, len(metadata.get("keypoint_names") or ()))
    # One file under several ids is one image, as in the dicts (`data/datasets/catalog.py`).
    by_file: dict[str, Any] = {}
    images = {x["id"]: by_file.setdefault(x["file_name"], x) for x in content["images"]}
    annotations, known = [], {}
    for raw in content["annotations"]:
        image, own_id = images.get(as_id(raw.get("image_id"))), as_id(raw.get("id"))
        first = raw if own_id is None else known.setdefault(own_id, raw)
        listed_twice = first is not raw and first == raw
        if image is None or listed_twice:
            continue
        label = reader.read(raw, int(image["height"]), int(image["width"]), "")
        if label is not None:
            category_id = category_ids[label["category_id"]]
            record = {**image, "image_id": image["id"]}
            annotations.append(coco_annotation(label, record, category_id))
    return annotations


def _category_ids(metadata: Metadata) -> dict[int, Any]:
    """Class number -> category id; the numbers themselves where the dataset has no others."""
    contiguous_ids = metadata.get("thing_dataset_id_to_contiguous_id")
    if contiguous_ids is None:
        return {number: number for number in range(len(metadata.thing_classes))}
    return {number: category_id for category_id, number in contiguous_ids.items()}


def coco_images(records: Sequence[Mapping[str, Any]]) -> list[CocoDict]:
    """COCO's ``images`` of dataset dicts."""
    fields = ("file_name", "height", "width")
    return [{"id": r["image_id"], **{field: r[field] for field in fields}} for r in records]


def coco_annotation(
    label: Mapping[str, Any], record: Mapping[str, Any], category_id: Any
) -> CocoDict:
    """A label of ``record["annotations"]`` (Detectron2's format) as one of COCO's annotations.

    Without ``area``, it is that of the mask; a mask that cannot be used is left out and counted.
    """
    mode, box = label.get("bbox_mode", BoxMode.XYWH_ABS), label["bbox"]
    if mode != BoxMode.XYWH_ABS:
        box = BoxMode.convert(list(map(float, box)), mode, BoxMode.XYWH_ABS)
    area, mask = label.get("area"), label.get("segmentation")
    if area is None and mask:
        try:
            mask = clean_segmentation(mask, record["height"], record["width"])
            area = mask_area(mask)
            if isinstance(mask, dict) and isinstance(mask["counts"], bytes):
                mask = {**mask, "counts": mask["counts"].decode()}
        except MaskError as error:
            mask = None
            DATA_REPORT.add(BAD_MASK, str(record["file_name"]), f"field 'segmentation': {error}")
    annotation = {
        "image_id": record["image_id"],
        "category_id": category_id,
        "bbox": list(box),
        "area": area,
        "iscrowd": label.get("iscrowd", 0),
        "keypoints": _pixel_indices(label.get("keypoints") or []),
    }
    return {**annotation, "segmentation": mask} if mask else annotation


def mask_ground_truth(ground_truth: CocoDict) -> CocoDict:
    """A copy for mask AP: the box of an object without a mask becomes an ignored region."""
    annotations = []
    for annotation in ground_truth["annotations"]:
        annotation = dict(annotation)
        if not annotation.get("segmentation"):
            x, y, w, h = annotation["bbox"]
            corners = [x, y, x, y + h, x + w, y + h, x + w, y]
            annotation.update(segmentation=[corners], iscrowd=1)
        annotations.append(annotation)
    return {**ground_truth, "annotations": annotations}


def _pixel_indices(keypoints: list[float]) -> list[float]:
    """Continuous coordinates -> COCO's; keypoints that are not labelled are (0, 0, 0)."""
    points = zip(keypoints[0::3], keypoints[1::3], keypoints[2::3], strict=True)
    return [value for x, y, v in points for value in ((x - 0.5, y - 0.5, v) if v else (0, 0, 0))]


def complete(annotations: list[CocoDict], num_keypoints: int) -> None:
    """Fill in what COCO's metric reads of every object, in place.

    ``id`` counts from 1, because COCO's metric takes a match with object 0 for no match; a missing
    ``area`` becomes that of the box.
    """
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
        area = annotation.get("area")
        if not isinstance(area, int | float) or not math.isfinite(area) or area <= 0:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        keypoints = annotation.get("keypoints") or [0] * (3 * num_keypoints)
        annotation["keypoints"] = keypoints
        annotation["num_keypoints"] = sum(visibility > 0 for visibility in keypoints[2::3])


@contextmanager
def temporary_dataset(like: str, records: list[dict[str, Any]], **metadata: Any) -> Iterator[str]:
    """Registers ``records`` under a new name, for Detectron2's functions that need one.

    The dataset has the metadata of ``like``, with ``metadata`` in the place of its own.
    """
    name = f"{like}_{uuid.uuid4().hex}"
    DatasetCatalog.register(name, lambda: records)
    values = {**MetadataCatalog.get(like).as_dict(), **metadata, "name": name}
    MetadataCatalog.get(name).set(**values)
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
