"""Questions to Detectron2's catalogues, about datasets whose files are read only when needed.

One image file may be in several entries of a dataset: their labels are put together. Left apart,
each entry would teach the objects of the others as background, and score them as false. Where the
entries are of two datasets that are trained on together, it is told.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from d2_multitask.data.datasets.dict_fields import with_plain_fields
from d2_multitask.data.labels.base import IGNORE_VALUE
from d2_multitask.data.labels.sem_seg import from_source
from d2_multitask.data.problems import DATA_REPORT, ProblemReport

logger = logging.getLogger(__name__)

BACKGROUND = "background"
RECONSTRUCTION_TASK = "reconstruction"
"""What masked autoencoders learn."""

# Tasks that learn from the images alone.
LABEL_FREE_TASKS = frozenset({RECONSTRUCTION_TASK})

SAME_FILE = "image file under several image ids, their objects are put together"
IN_TWO_SETS = (
    "images in two datasets with other objects in each, which are background in the other's copy"
)

# What may differ between the entries of one file: the names of the entry, and what is merged.
_MERGED = ("image_id", "file_name", "annotations")


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


def log_size(name: str, source: str, dataset_dicts: Sequence[Mapping[str, Any]]) -> None:
    """Log how many images, objects and other labels a dataset has."""
    objects = [a for record in dataset_dicts for a in record.get("annotations", ())]
    crowds = sum(a["iscrowd"] for a in objects)
    keys = Counter(key for record in dataset_dicts for key in record)
    logger.info(
        "Dataset %s: %d images (%d of them labelled as empty), %d objects (%d with keypoints), "
        "%d ignored regions, from %s; images with %s",
        name,
        len(dataset_dicts),
        sum(record.get("annotations") == [] for record in dataset_dicts),
        len(objects) - crowds,
        sum(any(a.get("keypoints", ())) for a in objects),
        crowds,
        source,
        ", ".join(f"{key}: {number}" for key, number in keys.items()),
    )


def loaded_metadata(name: str) -> Metadata:
    """Metadata of a dataset, complete: what only its file tells is read if it was not yet."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and metadata.get("stuff_classes") is None:
        load_dataset(name)
    return metadata


def with_keypoints(names: Sequence[str]) -> list[str]:
    """Those of the datasets that name keypoints."""
    return [name for name in names if loaded_metadata(name).get("keypoint_names")]


def merge_same_files(
    name: str, dataset_dicts: Sequence[dict[str, Any]], report: ProblemReport = DATA_REPORT
) -> list[dict[str, Any]]:
    """Entries of one file become one, at the place of the first, however its path is written.

    Links are followed too.
    Entries with the same objects stay as they are: listing an image twice makes it count twice.
    An entry without the field ``annotations`` adds nothing to one that has it.

    Such files are counted, with their image ids; the dicts are not changed.

    Raises:
        ValueError: the entries differ in another field, such as their semantic maps.
    """
    real = _RealPaths()
    names = [
        real.path(r["file_name"]) if r.get("file_name") else f"entry {i}"
        for i, r in enumerate(dataset_dicts)
    ]
    if len(set(names)) == len(names):
        return list(dataset_dicts)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, file_name in enumerate(names):
        groups[file_name].append(index)
    result: list[dict[str, Any] | None] = list(dataset_dicts)
    for file_name, indices in groups.items():
        same_file = [dataset_dicts[index] for index in indices]
        if len({repr({**r, "image_id": 0, "file_name": ""}) for r in same_file}) < 2:
            continue
        result[indices[0]] = _merge(name, same_file)
        for index in indices[1:]:
            result[index] = None
        ids = [record.get("image_id") for record in same_file]
        report.add(SAME_FILE, file_name, f"found it as the images {ids}, expected one id a file")
    return [record for record in result if record is not None]


def report_shared_files(
    sets: Mapping[str, Sequence[dict[str, Any]]],
    filter_empty: bool,
    report: ProblemReport = DATA_REPORT,
) -> None:
    """Count the image files that two datasets of a training label with different objects.

    Entries without the field ``annotations``, such as those of semantic maps alone, say nothing
    about objects.

    With ``filter_empty``, entries with no object are not trained on.
    """
    real = _RealPaths()
    first_of: dict[str, tuple[str, dict[str, Any]]] = {}
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, dataset_dicts in sets.items():
        for record in dataset_dicts:
            if "annotations" not in record or (filter_empty and not record["annotations"]):
                continue
            path = real.path(record["file_name"])
            other, first = first_of.setdefault(path, (name, record))
            if other != name and _objects(first) != _objects(record):
                shared[other, name].append(path)
    for pair, paths in shared.items():
        details = f"found {len(paths)} images in both, such as {paths[0]}; expected them in one"
        report.add(IN_TWO_SETS, "datasets {!r} and {!r}".format(*pair), details)


def _objects(record: Mapping[str, Any]) -> set[str]:
    fields = ("category_id", "bbox", "bbox_mode")
    return {repr([a.get(field) for field in fields]) for a in record["annotations"]}


class _RealPaths:
    """Paths without links; each folder is listed once, instead of a question for each file."""

    def __init__(self) -> None:
        self._folders: dict[str, tuple[str, frozenset[str]]] = {}  # real path, names of links

    def path(self, file_name: str | os.PathLike[str]) -> str:
        folder, base = os.path.split(os.fspath(file_name))
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder), _links(folder)
        real, links = self._folders[folder]
        return os.path.realpath(file_name) if base in links else os.path.join(real, base)


def _links(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return frozenset(entry.name for entry in entries if entry.is_symlink())
    except OSError:  # not there, or an address that only Detectron2's PathManager opens
        return frozenset()


def _merge(name: str, same_file: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = dict(same_file[0])
    for record in same_file:
        keys = sorted({*record, *first} - {*_MERGED})
        different = [key for key in keys if repr(record.get(key)) != repr(first.get(key))]
        if different:
            raise ValueError(
                f"Dataset {name!r}: {first['file_name']}: found it as the images "
                f"{[r.get('image_id') for r in same_file]} with different values of {different}, "
                "expected one entry a file; leave the others out, or copy the file"
            )
    if any("annotations" in record for record in same_file):
        every = [a for record in same_file for a in record.get("annotations", ())]
        first["annotations"] = list({repr(annotation): annotation for annotation in every}.values())
    return first
