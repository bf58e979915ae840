"""Questions to Detectron2's catalogues, about datasets whose files are read only when needed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from d2_multitask.data.datasets.dict_fields import with_plain_fields
from d2_multitask.data.datasets.same_file import merge_same_files
from d2_multitask.data.labels.base import IGNORE_VALUE
from d2_multitask.data.labels.sem_seg import from_source

BACKGROUND = "background"
RECONSTRUCTION_TASK = "reconstruction"
"""What masked autoencoders learn."""

# Tasks that learn from the images alone.
LABEL_FREE_TASKS = frozenset({RECONSTRUCTION_TASK})


def needs_labels(tasks: Sequence[str]) -> bool:
    """Whether any of the tasks learns from labels; a network without named tasks does."""
    return not tasks or not LABEL_FREE_TASKS.issuperset(tasks)


def register(name: str, dataset: Callable[[], list[dict[str, Any]]], **metadata: Any) -> None:
    """Register a dataset and its metadata. Doing it again changes nothing.

    Raises:
        ValueError: the name is taken by another dataset.
    """
    if name in DatasetCatalog:
        if DatasetCatalog.data[name] == dataset:
            return
        raise ValueError(
            f"Dataset name {name!r} is already registered, for {DatasetCatalog.data[name]}. "
            "Choose another name."
        )
    DatasetCatalog.register(name, dataset)
    MetadataCatalog.get(name).set(**metadata)


def load_dataset(name: str) -> list[dict[str, Any]]:
    """The dicts of a registered dataset; the entries of one image file are put together.

    Flags and class numbers are plain integers, see `dict_fields`.

    Raises:
        ValueError: the name is not registered, the dataset is empty, or entries of one image file
            contradict each other.
    """
    if name not in DatasetCatalog:
        close = difflib.get_close_matches(name, DatasetCatalog, n=5, cutoff=0.4)
        raise ValueError(
            f"DATASETS: found {name!r}, expected a registered dataset, such as {close}. Register "
            "your own with DATASETS.REGISTER in the config or with register_coco_format."
        )
    dataset_dicts = DatasetCatalog.get(name)
    if not dataset_dicts:
        raise ValueError(f"Dataset {name!r} is empty: found no image, expected at least one")
    records = [from_source(record) for record in with_plain_fields(dataset_dicts, name=name)]
    return merge_same_files(name, _with_maps_of_masks(name, records))


def _with_maps_of_masks(name: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Derive semantic maps where a dataset of others, Detectron2's for example, has only masks."""
    metadata = MetadataCatalog.get(name)
    if not getattr(DatasetCatalog[name], "sem_seg_from_masks", True):
        return records  # its registration says no
    names = [BACKGROUND, *metadata.get("thing_classes", ())]
    if len(names) < 2 or metadata.get("stuff_classes") not in (None, names):
        return records
    if any(key.startswith("sem_seg") for record in records for key in record) or not any(
        a.get("segmentation") for record in records for a in record.get("annotations", ())
    ):
        return records
    metadata.set(stuff_classes=names, ignore_label=IGNORE_VALUE)
    return [{**record, "sem_seg_from_annotations": True} for record in records]


def loaded_metadata(name: str) -> Metadata:
    """Metadata of a dataset, complete: what only its file tells is read if it was not yet."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and metadata.get("stuff_classes") is None:
        load_dataset(name)
    return metadata


def with_keypoints(names: Sequence[str]) -> list[str]:
    """Those of the datasets that name keypoints."""
    return [name for name in names if loaded_metadata(name).get("keypoint_names")]
