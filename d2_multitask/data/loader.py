"""The training set that a config asks for, checked against the network, and the data loaders."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.utils import comm

from d2_multitask.data.datasets.catalog import (
    LABEL_FREE_TASKS,
    load_dataset,
    loaded_metadata,
    needs_labels,
    report_shared_files,
)
from d2_multitask.data.datasets.shards import training_shards
from d2_multitask.data.datasets.teacher import LABELS_FILE
from d2_multitask.data.io import ImageReadError, SizeMismatchError, read_image
from d2_multitask.data.labels.base import Label, all_labels
from d2_multitask.data.labels.instances import MaskLabel, RoiKeypointLabel
from d2_multitask.data.mapper import MultitaskDatasetMapper
from d2_multitask.data.problems import DATA_REPORT, ProblemReport, shown
from d2_multitask.data.sampler import DATASET_KEY, ReportingLoader, TrainingImages
from d2_multitask.data.shards import ShardedImages
from d2_multitask.heads.build import labels_of

logger = logging.getLogger(__name__)

DatasetDicts = list[dict[str, Any]]

NO_LABEL = "image without any label, not used for training"
EMPTY_IMAGE = "image without objects and without a map of labels, not used for training"

# Objects are loaded whatever the tasks, so that these must agree between datasets.
_OBJECT_METADATA = ("thing_classes", "keypoint_names", "keypoint_flip_map")

# Detectron2's networks have masks and keypoints by keys of their own.
_SWITCHES: Mapping[str, type[Label]] = MappingProxyType(
    {"MASK_ON": MaskLabel, "KEYPOINT_ON": RoiKeypointLabel}
)


def get_training_dicts(cfg: CfgNode) -> DatasetDicts | ShardedImages:
    """Load, check, filter and concatenate the datasets of ``DATASETS.TRAIN``.

    Datasets may be labelled for different tasks. Where two of them have the same kind of labels,
    the names must agree; and each task of ``MODEL.TASKS`` needs labels in at least one of them.
    If no task needs labels, every image is used and no label is read. If one of the tasks is
    "reconstruction", or there are ``MODEL.TEACHERS``, images without any label are used too.

    Returns:
        Detectron2's dicts, to be given to ``build_detection_train_loader`` as ``dataset``; of
        shards a sequence of them.

    Raises:
        ValueError: a dataset is not registered, empty, or unreadable; datasets disagree; the
            network has another number of classes or keypoints; a task has no labels. The message
            names the dataset, what was found, what was expected, and the config key to set.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN: found nothing, expected at least one dataset")
    times = repeat_factors(cfg.DATASETS.TRAIN_REPEAT_FACTOR, cfg.DATASETS.TRAIN)
    shards = training_shards(cfg, times)
    if shards is not None:
        _check_readable(cfg.DATASETS.TRAIN[0], [shards[0]], cfg.INPUT.FORMAT)
        return shards
    sets = {name: load_dataset(name) for name in cfg.DATASETS.TRAIN}
    if not needs_labels(cfg.MODEL.TASKS):
        return _images_alone(cfg, sets, times)
    _check_teachers(cfg, sets)
    needs = label_needs(cfg)
    labels = {kind: kind.from_config(cfg) for *_, kind in needs}
    names_keys = dict.fromkeys(x.names_key for x in labels if x.names_key)
    for key in dict.fromkeys([*_OBJECT_METADATA, *names_keys]):
        _check_agreement(key, list(sets))
    if names_keys:
        _check_order(list(names_keys), list(sets), cfg.DATASETS.TEST)
    for (name, dataset_dicts), label in itertools.product(sets.items(), labels.values()):
        if any(map(label.has, dataset_dicts)):
            label.check_classes(name, dataset_dicts)
    for name, dataset_dicts in sets.items():
        _check_readable(name, dataset_dicts, cfg.INPUT.FORMAT)
        _check_category_ids(name, dataset_dicts)
    for who, otherwise, kind in needs:
        if not any(map(labels[kind].has, itertools.chain.from_iterable(sets.values()))):
            raise ValueError(
                f"{who} needs {kind.description}, found none in {list(sets)}; {otherwise}, or "
                "add a dataset with such labels to DATASETS.TRAIN"
            )
    for (name, dataset_dicts), label in itertools.product(sets.items(), labels.values()):
        label.check(name, dataset_dicts)
    report_shared_files(sets, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    _warn_of_unlabelled(sets)
    sets = {name: _with_labelled_keypoints(dicts) for name, dicts in sets.items()}
    dataset_dicts = _chain(sets, times)
    if not LABEL_FREE_TASKS.isdisjoint(cfg.MODEL.TASKS):
        return dataset_dicts  # every image teaches something
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    dataset_dicts = filter_images(
        dataset_dicts, filter_empty, keep_unlabelled=bool(cfg.MODEL.TEACHERS)
    )
    if not dataset_dicts:
        raise ValueError(
            f"DATASETS.TRAIN: no image of {list(sets)} is left for training, because none has an "
            "object or a map of labels"
        )
    return dataset_dicts


def _check_teachers(cfg: CfgNode, sets: Mapping[str, DatasetDicts]) -> None:
    """Losses of an R-CNN's objects are not multiplied by confidences."""
    if cfg.MODEL.META_ARCHITECTURE != "MultitaskRCNN" or "det" not in cfg.MODEL.TASKS:
        return
    for name, dataset_dicts in sets.items():
        objects = itertools.chain.from_iterable(r.get("annotations", ()) for r in dataset_dicts)
        if any("confidence" in a or "keypoint_confidence" in a for a in objects):
            raise ValueError(
                f"Dataset {name!r}: TEACHER_ROOT: found objects of a teacher, whose confidence "
                "MODEL.META_ARCHITECTURE MultitaskRCNN cannot learn from, only that of maps; "
                "expected MultitaskCenterNet, a folder written with --tasks seg, or the teacher's "
                f"{LABELS_FILE} as JSON of the dataset, which is taken for true labels"
            )


def repeat_factors(entries: Sequence[Sequence[Any]], names: Sequence[str]) -> dict[str, int]:
    """``DATASETS.TRAIN_REPEAT_FACTOR`` -> how often each dataset of ``names`` is taken.

    Raises:
        ValueError: an entry is not a name of ``names`` and a whole number from 1.
    """
    times = dict.fromkeys(names, 1)
    for entry in entries:
        is_pair = isinstance(entry, Sequence) and len(entry) == 2 and entry[0] in times
        if not is_pair or not entry[1] >= 1 or entry[1] != int(entry[1]):
            raise ValueError(
                f"DATASETS.TRAIN_REPEAT_FACTOR: found {entry!r}, expected [name, times] with one "
                f"of {list(names)} and a whole number from 1"
            )
        times[entry[0]] = int(entry[1])
    return times


def _chain(sets: Mapping[str, DatasetDicts], times: Mapping[str, int]) -> DatasetDicts:
    """All images, each of several sets with the name of its own."""
    if len(sets) > 1:
        sets = {name: [{**r, DATASET_KEY: name} for r in dicts] for name, dicts in sets.items()}
    return list(itertools.chain.from_iterable(sets[name] * times[name] for name in sets))


def _with_labelled_keypoints(dataset_dicts: DatasetDicts) -> DatasetDicts:
    """Where a dataset labels some keypoints only, its dicts say which: ``labelled_keypoints``."""
    missing: set[int] | None = None
    number = 0
    for annotation in itertools.chain.from_iterable(
        d.get("annotations", ()) for d in dataset_dicts
    ):
        visibility = np.ravel(annotation.get("keypoints", ()))[2::3]
        if len(visibility):
            number = len(visibility)
            missing = set(range(number)) if missing is None else missing
            missing = {index for index in missing if index >= number or not visibility[index]}
            if not missing:
                return dataset_dicts
    if missing is None or len(missing) == number:
        return dataset_dicts  # none is labelled at all, see KeypointLabel
    labelled = [index not in missing for index in range(number)]
    return [{**record, "labelled_keypoints": labelled} for record in dataset_dicts]


def _images_alone(
    cfg: CfgNode, sets: Mapping[str, DatasetDicts], times: Mapping[str, int]
) -> DatasetDicts:
    """All images of all sets, without their labels, which therefore need not agree."""
    for name, dataset_dicts in sets.items():
        _check_readable(name, dataset_dicts, cfg.INPUT.FORMAT)
    keys = ("file_name", "image_id", "height", "width", DATASET_KEY)
    return [{key: record[key] for key in keys if key in record} for record in _chain(sets, times)]


def filter_images(
    dataset_dicts: Sequence[dict[str, Any]],
    filter_empty: bool,
    report: ProblemReport = DATA_REPORT,
    *,
    keep_unlabelled: bool = False,
) -> DatasetDicts:
    """Leave out images that no task can learn from; what is left out is counted.

    Args:
        dataset_dicts: in Detectron2's format.
        filter_empty: also leave out images that are labelled as having no object (crowds do not
            count) unless they come with a map of labels of their own. Without it they are kept:
            they teach what background looks like.
        report: where they are counted.
        keep_unlabelled: keep images without any label.
    """
    map_fields = {field for label in all_labels() for field in label.fields}
    kept = []
    for record in dataset_dicts:
        has_map = any(map(record.get, map_fields))
        has_objects = any(not a.get("iscrowd", 0) for a in record.get("annotations", ()))
        is_kept = not filter_empty if "annotations" in record else keep_unlabelled
        if has_map or has_objects or is_kept:
            kept.append(record)
        else:
            kind = EMPTY_IMAGE if "annotations" in record else NO_LABEL
            details = "DATALOADER.FILTER_EMPTY_ANNOTATIONS is True" if kind is EMPTY_IMAGE else ""
            report.add(kind, str(record["file_name"]), details)
    logger.info("%d of %d images are used for training", len(kept), len(dataset_dicts))
    return kept


def build_train_loader(
    cfg: CfgNode, mapper: Callable[[dict[str, Any]], Any] | None = None
) -> ReportingLoader:
    """A training loader over ``get_training_dicts``, with the workers' data report.

    The batches are those of :class:`TrainingImages`: with ``SEED`` the same whatever the network,
    the number of workers, and where a training was interrupted (``loader.images.start``). Another
    ``DATALOADER.SAMPLER_TRAIN`` than Detectron2's default gives Detectron2's loader, which starts
    anew when a training is resumed.
    """
    dataset_dicts = get_training_dicts(cfg)  # first: it loads the metadata that the mapper needs
    mapper = mapper if mapper is not None else MultitaskDatasetMapper(cfg, True)
    _check_sampling(cfg)
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        loader = build_detection_train_loader(
            cfg,
            dataset=dataset_dicts,
            mapper=mapper,
            # Of the worker processes. Without it their seed would depend on how many random
            # numbers the network has drawn for its weights.
            seed=cfg.SEED + comm.get_rank() if cfg.SEED >= 0 else None,
        )
        return ReportingLoader(loader)
    names = list(dict.fromkeys(cfg.DATASETS.TRAIN))
    world_size, total = comm.get_world_size(), cfg.SOLVER.IMS_PER_BATCH
    if total < 1 or total % world_size:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH: found {total}, expected a multiple of the "
            f"{world_size} processes"
        )
    images = TrainingImages(
        dataset_dicts,
        mapper,
        batch_size=total // world_size,
        seed=cfg.SEED if cfg.SEED >= 0 else None,
        group_by_shape=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        sampling=cfg.DATASETS.SAMPLING,
        set_names=names if len(names) > 1 else (),
    )
    loader = build_batch_data_loader(images, None, total, num_workers=cfg.DATALOADER.NUM_WORKERS)
    return ReportingLoader(loader, images=images)


def _check_sampling(cfg: CfgNode) -> None:
    """``DATASETS.SAMPLING`` beside keys that decide the same, and with one dataset."""
    if cfg.DATASETS.SAMPLING in (None, "proportional"):
        return
    found = f"DATASETS.SAMPLING: found {cfg.DATASETS.SAMPLING!r}"
    if len(set(cfg.DATASETS.TRAIN)) < 2:
        raise ValueError(f"{found}, expected several datasets in DATASETS.TRAIN, or None")
    if cfg.DATASETS.TRAIN_REPEAT_FACTOR:
        raise ValueError(f"{found} beside DATASETS.TRAIN_REPEAT_FACTOR, expected one of the two")
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise ValueError(
            f"{found} with DATALOADER.SAMPLER_TRAIN {cfg.DATALOADER.SAMPLER_TRAIN!r}, expected "
            "'TrainingSampler'"
        )


def build_test_loader(
    cfg: CfgNode, name: str, mapper: Callable[[dict[str, Any]], Any] | None = None
) -> ReportingLoader:
    """Detectron2's test loader over one dataset, with the workers' data report."""
    dataset_dicts = load_dataset(name)
    check_evaluated(name, dataset_dicts)
    loader = build_detection_test_loader(
        dataset_dicts,
        mapper=mapper if mapper is not None else MultitaskDatasetMapper(cfg, False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    return ReportingLoader(loader)


def check_evaluated(name: str, dataset_dicts: DatasetDicts) -> None:
    """Whether the labels of a dataset can be scored.

    Raises:
        ValueError: a class is unknown, or two images have one id; names the dataset and both. Or
            an image with objects has no size.
    """
    if getattr(DatasetCatalog.data.get(name), "teachers", ()):
        raise ValueError(
            f"DATASETS.TEST: dataset {name!r} has labels of a teacher, expected true ones alone: "
            "an entry of DATASETS.REGISTER without TEACHER_ROOT"
        )
    _check_category_ids(name, dataset_dicts)
    _check_image_ids(name, dataset_dicts)
    for record in dataset_dicts:
        if record.get("annotations") and not (record.get("height") and record.get("width")):
            raise ValueError(
                f"Dataset {name!r}: {record.get('file_name')}: found 'height' "
                f"{record.get('height')} and 'width' {record.get('width')}, expected the size in "
                "pixels of each image that is evaluated"
            )


def _check_agreement(key: str, names: Sequence[str]) -> None:
    known = {name: MetadataCatalog.get(name).get(key) for name in names}
    known = {name: _as_lists(value) for name, value in known.items() if value is not None}
    first = next(iter(known), None)
    for name, value in known.items():
        if value != known[first]:
            raise ValueError(
                f"DATASETS.TRAIN: {key} of dataset {name!r}: found {value}, expected "
                f"{known[first]} as in {first!r}; train on one of them{_union(key, known)}"
            )


def _check_order(keys: Sequence[str], train: Sequence[str], test: Sequence[str]) -> None:
    """Names in another order would be those of others' results."""
    trained = [MetadataCatalog.get(name) for name in train]  # which agree
    tested = {name: loaded_metadata(name) for name in test if name in DatasetCatalog}
    for key, (name, metadata) in itertools.product(keys, tested.items()):
        expected = next((list(x.get(key)) for x in trained if x.get(key) is not None), [])
        found = list(metadata.get(key) or ())
        if found != expected and sorted(found) == sorted(expected):
            raise ValueError(
                f"DATASETS.TEST: {key} of dataset {name!r}: found {found}, expected the "
                f"order of the datasets of DATASETS.TRAIN, {expected}; reorder one of them"
            )


def _union(key: str, known: Mapping[str, Any]) -> str:
    """What to type to train on datasets of other names together."""
    keys = {"thing_classes": "CLASS_NAMES", "keypoint_names": "KEYPOINT_NAMES"}
    if key not in keys:
        return ", or rename and reorder"
    union = list(dict.fromkeys(itertools.chain.from_iterable(known.values())))
    return (
        f", or give each of them the names of the network in its entry of DATASETS.REGISTER, such "
        f"as all of them, {keys[key]}: {union} (docs/datasets.md, Several sets)"
    )


def _warn_of_unlabelled(sets: Mapping[str, DatasetDicts]) -> None:
    """Classes of the network that no dataset labels are not learned, not even as background."""
    fields = {"labelled_classes": "thing_classes", "labelled_keypoints": "keypoint_names"}
    for field, key in fields.items():
        names = next((x for n in sets if (x := MetadataCatalog.get(n).get(key))), ())
        some = [next((r for r in s if "annotations" in r), None) for s in sets.values()]
        rows = [r.get(field, [True] * len(names)) for r in some if r is not None]
        nowhere = [name for name, *flags in zip(names, *rows, strict=False) if not any(flags)]
        if rows and nowhere:
            logger.warning(f"{key}: none of {list(sets)} labels {nowhere}: they are not learned")


def _check_readable(name: str, dataset_dicts: DatasetDicts, image_format: str) -> None:
    """One bad image is skipped later, but a dataset of nothing else is a wrong folder."""
    first_error = None
    for record in dataset_dicts:
        height, width = record.get("height"), record.get("width")
        try:
            read_image(
                record["file_name"], image_format, (height, width) if height and width else None
            )
            return
        except (ImageReadError, SizeMismatchError) as error:
            first_error = first_error or error
    raise ValueError(
        f"Dataset {name!r}: none of its {len(dataset_dicts)} images can be used, expected them in "
        f"{MetadataCatalog.get(name).get('image_root', 'their folder')}. The first: {first_error}"
    )


def _check_category_ids(name: str, dataset_dicts: DatasetDicts) -> None:
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None:
        return
    objects = itertools.chain.from_iterable(r.get("annotations", ()) for r in dataset_dicts)
    ids = (a.get("category_id") for a in objects)
    found = {value if type(value) in (int, type(None)) else shown(value) for value in ids}
    unknown = sorted(found - set(range(len(classes))), key=str)
    if unknown:
        raise ValueError(
            f"Dataset {name!r}: category_id: found {unknown}, expected 0..{len(classes) - 1} for "
            f"the classes {list(classes)}"
        )


def _check_image_ids(name: str, dataset_dicts: DatasetDicts) -> None:
    """Metrics count per image: two images of one id would get each other's objects."""
    files: dict[Any, Any] = {}
    for record in dataset_dicts:
        file_name, image_id = record.get("file_name"), record.get("image_id")
        if image_id is None and "annotations" in record:
            raise ValueError(
                f"Dataset {name!r}: {file_name}: image_id: found none, expected a number or text "
                "of its own for each image with objects"
            )
        if image_id is not None and image_id in files:
            raise ValueError(
                f"Dataset {name!r}: image_id: found {image_id!r} for {files[image_id]} and for "
                f"{file_name}, expected another id for each image, and each image once"
            )
        files[image_id] = file_name


def label_needs(cfg: CfgNode) -> list[tuple[str, str, type[Label]]]:
    """Every task, and every switch that is on: who, what to do without labels, kind of label.

    Without those tasks that an entry of ``MODEL.TEACHERS`` names: a teacher is enough.
    """
    taught = {task for entry in cfg.MODEL.TEACHERS for task in dict(entry).get("TASKS", ())}
    needs = [
        (f"MODEL.TASKS: task {task!r}", "leave the task out", kind)
        for task in cfg.MODEL.TASKS
        if task not in taught
        for kind in labels_of(task)
    ]
    return needs + [
        (f"MODEL.{key}: True", "set it to False", kind)
        for key, kind in _SWITCHES.items()
        if cfg.MODEL[key]
    ]


def _as_lists(value: Any) -> Any:
    """Detectron2 writes pairs as tuples, others as lists; both mean the same."""
    return [_as_lists(v) for v in value] if isinstance(value, list | tuple) else value
