"""The training set that a config asks for, checked against the network, and the data loaders."""

from __future__ import annotations

import functools
import itertools
import logging
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import (
    MetadataCatalog,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.utils import comm

from d2_multitask.data.datasets.catalog import RECONSTRUCTION_TASK, load_dataset, needs_labels
from d2_multitask.data.datasets.json_values import shown
from d2_multitask.data.datasets.same_file import report_shared_files
from d2_multitask.data.io import ImageReadError, SizeMismatchError, read_image
from d2_multitask.data.labels.dense import DENSE_TASKS
from d2_multitask.data.labels.foreground import read_foreground
from d2_multitask.data.labels.map_check import check_map_names, check_maps
from d2_multitask.data.mapper import MultitaskDatasetMapper
from d2_multitask.data.problems import DATA_REPORT, ProblemReport, ReportingLoader
from d2_multitask.data.sampler import TrainingImages

logger = logging.getLogger(__name__)

DatasetDicts = list[dict[str, Any]]

# Where networks keep the numbers of their object classes and joints.
_CENTER_SIZE_KEYS = ("MODEL.CENTER_HEAD.NUM_CLASSES", "MODEL.POSE_HEAD.NUM_KEYPOINTS")
_SIZE_KEYS = {
    "MultitaskRCNN": ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS")
}

NO_LABEL = "image without any label, not used for training"
EMPTY_IMAGE = "image without objects and without a map of labels, not used for training"

# Maps that an image brings of its own, from which it teaches something without any object.
_MAP_KEYS = (
    "sem_seg_file_name",
    "sem_seg_segments",
    "part_seg_file_name",
    "part_seg_segments",
    "boundary_file_name",
    "boundary_segmentation",
    "occlusion_fragments",
    "image_labels",
    "foreground_file_name",
)


def get_training_dicts(cfg: CfgNode) -> DatasetDicts:
    """Load, check, filter and concatenate the data sets of ``DATASETS.TRAIN``.

    Data sets may be labelled for different tasks. Where two of them have the same kind of labels,
    the names must agree; and each task of ``MODEL.TASKS`` needs labels in at least one of them.
    If no task needs labels, every image is used and no label is read. If one of the tasks is
    "reconstruction", images without any label are used too.

    Returns:
        Detectron2's dicts, to be given to ``build_detection_train_loader`` as ``dataset``.

    Raises:
        ValueError: a data set is not registered, empty, or unreadable; data sets disagree; the
            network has another number of classes or joints; a task has no labels. The message names
            the data set, what was found, what was expected, and the config key to set.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN: found nothing, expected at least one data set")
    sets = {name: load_dataset(name) for name in cfg.DATASETS.TRAIN}
    times = repeat_factors(cfg.DATASETS.TRAIN_REPEAT_FACTOR, list(sets))
    if not needs_labels(cfg.MODEL.TASKS):
        return _images_alone(cfg, sets, times)
    for name, dataset_dicts in sets.items():
        check_map_names(cfg, name, dataset_dicts)
    _check_names(cfg, list(sets))
    for name, dataset_dicts in sets.items():
        _check_readable(name, dataset_dicts, cfg.INPUT.FORMAT)
        _check_category_ids(name, dataset_dicts)
        if "pose" in cfg.MODEL.TASKS or cfg.MODEL.KEYPOINT_ON:
            _check_joints_named(name, dataset_dicts)
        if "foreground" in cfg.MODEL.TASKS:
            _check_masks(name, dataset_dicts, cfg.INPUT.FORMAT)
        check_maps(cfg, name, dataset_dicts)
    report_shared_files(sets, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    sets = {name: _with_labelled_joints(dicts) for name, dicts in sets.items()}
    dataset_dicts = _chain(sets, times)
    _check_labels(cfg.MODEL.TASKS, dataset_dicts, list(sets))
    _check_switches(cfg, dataset_dicts, list(sets))
    if not {"det", "pose"}.isdisjoint(cfg.MODEL.TASKS):
        for name in sets:
            check_boxes(name, sets[name])
    if RECONSTRUCTION_TASK in cfg.MODEL.TASKS:
        return dataset_dicts  # every image teaches something
    dataset_dicts = filter_images(dataset_dicts, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    if not dataset_dicts:
        raise ValueError(
            f"DATASETS.TRAIN: no image of {list(sets)} is left for training, because none has an "
            "object or a map of labels"
        )
    return dataset_dicts


def repeat_factors(entries: Sequence[Sequence[Any]], names: Sequence[str]) -> dict[str, int]:
    """``DATASETS.TRAIN_REPEAT_FACTOR`` -> how often each data set of ``names`` is taken.

    Raises:
        ValueError: an entry is no pair of a name and a whole number from 1, or of another name.
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
    return list(itertools.chain.from_iterable(sets[name] * times[name] for name in sets))


def _with_labelled_joints(dataset_dicts: DatasetDicts) -> DatasetDicts:
    """Where a data set labels some joint types only, its dicts get them as ``labelled_joints``."""
    missing: set[int] | None = None
    num_joints = 0
    for annotation in itertools.chain.from_iterable(
        d.get("annotations", ()) for d in dataset_dicts
    ):
        visibility = np.ravel(annotation.get("keypoints", ()))[2::3]
        if len(visibility):
            num_joints = len(visibility)
            missing = set(range(num_joints)) if missing is None else missing
            missing = {joint for joint in missing if joint >= num_joints or not visibility[joint]}
            if not missing:
                return dataset_dicts
    if missing is None or len(missing) == num_joints:
        return dataset_dicts  # no joint is labelled at all, which is told elsewhere
    labelled = [joint not in missing for joint in range(num_joints)]
    return [{**record, "labelled_joints": labelled} for record in dataset_dicts]


def _images_alone(
    cfg: CfgNode, sets: Mapping[str, DatasetDicts], times: Mapping[str, int]
) -> DatasetDicts:
    """All images of all sets, without their labels, which therefore need not agree."""
    for name, dataset_dicts in sets.items():
        _check_readable(name, dataset_dicts, cfg.INPUT.FORMAT)
    keys = ("file_name", "image_id", "height", "width")
    return [{key: record[key] for key in keys if key in record} for record in _chain(sets, times)]


def filter_images(
    dataset_dicts: Sequence[dict[str, Any]],
    filter_empty: bool,
    report: ProblemReport = DATA_REPORT,
) -> DatasetDicts:
    """Leave out images that no task can learn from; what is left out is counted.

    Args:
        dataset_dicts: in Detectron2's format.
        filter_empty: also leave out images that are labelled as having no object (crowds do not
            count) unless they come with a map of labels of their own. Without it they are kept:
            they teach what background looks like.
        report: where they are counted.
    """
    kept = []
    for record in dataset_dicts:
        has_map = any(record.get(key) for key in _MAP_KEYS)
        has_objects = any(not a.get("iscrowd", 0) for a in record.get("annotations", ()))
        if has_map or has_objects or (not filter_empty and "annotations" in record):
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
    )
    loader = build_batch_data_loader(images, None, total, num_workers=cfg.DATALOADER.NUM_WORKERS)
    return ReportingLoader(loader, images=images)


def build_test_loader(
    cfg: CfgNode, name: str, mapper: Callable[[dict[str, Any]], Any] | None = None
) -> ReportingLoader:
    """Detectron2's test loader over one data set, with the workers' data report."""
    dataset_dicts = load_dataset(name)
    check_evaluated(name, dataset_dicts)
    loader = build_detection_test_loader(
        dataset_dicts,
        mapper=mapper if mapper is not None else MultitaskDatasetMapper(cfg, False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    return ReportingLoader(loader)


def check_evaluated(name: str, dataset_dicts: DatasetDicts) -> None:
    """Whether the labels of a data set can be scored.

    Raises:
        ValueError: a class is unknown, or two images have one id; names the data set and both. Or
            an image with objects has no size.
    """
    _check_category_ids(name, dataset_dicts)
    _check_image_ids(name, dataset_dicts)
    for record in dataset_dicts:
        if record.get("annotations") and not (record.get("height") and record.get("width")):
            raise ValueError(
                f"Data set {name!r}: {record.get('file_name')}: found 'height' "
                f"{record.get('height')} and 'width' {record.get('width')}, expected the size in "
                "pixels of each image that is evaluated"
            )


def _check_names(cfg: CfgNode, names: Sequence[str]) -> None:
    """Names agree between data sets, and their numbers with the network of the asked tasks."""
    tasks = set(cfg.MODEL.TASKS)
    for key in (
        "thing_classes",
        "keypoint_names",
        "keypoint_flip_map",
        *(["stuff_classes"] if "seg" in tasks else []),
        "part_classes",
    ):
        _check_agreement(key, names)
    objects, joints = _SIZE_KEYS.get(cfg.MODEL.META_ARCHITECTURE, _CENTER_SIZE_KEYS)
    if tasks & {"det", "pose"}:
        _check_number("thing_classes", names, _value(cfg, objects), objects)
    if "pose" in tasks or cfg.MODEL.KEYPOINT_ON:
        _check_number("keypoint_names", names, _value(cfg, joints), joints)
    if "seg" in tasks:
        size = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        _check_number("stuff_classes", names, size, "MODEL.SEM_SEG_HEAD.NUM_CLASSES")


def _value(cfg: CfgNode, key: str) -> Any:
    return functools.reduce(operator.getitem, key.split("."), cfg)


def _check_agreement(key: str, names: Sequence[str]) -> None:
    known = {name: MetadataCatalog.get(name).get(key) for name in names}
    known = {name: _as_lists(value) for name, value in known.items() if value is not None}
    first = next(iter(known), None)
    for name, value in known.items():
        if value != known[first]:
            raise ValueError(
                f"DATASETS.TRAIN: {key} of data set {name!r}: found {value}, expected "
                f"{known[first]} as in {first!r}; train on one of them, or rename and reorder"
            )


def _check_number(key: str, names: Sequence[str], expected: int, config_key: str) -> None:
    for name in names:
        found = MetadataCatalog.get(name).get(key)
        if found is not None and len(found) != expected:
            raise ValueError(
                f"Data set {name!r}: {key}: found {len(found)}, {list(found)}, expected {expected} "
                f"as in the network; set {config_key} to {len(found)}"
            )


def _check_readable(name: str, dataset_dicts: DatasetDicts, image_format: str) -> None:
    """One bad image is skipped later, but a data set of nothing else is a wrong folder."""
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
        f"Data set {name!r}: none of its {len(dataset_dicts)} images can be used, expected them in "
        f"{MetadataCatalog.get(name).get('image_root', 'their folder')}. The first: {first_error}"
    )


def _check_masks(name: str, dataset_dicts: DatasetDicts, image_format: str) -> None:
    """One bad mask is skipped later, but if there is no good one, the values are others."""
    first_error = None
    for record in dataset_dicts:
        if "foreground_file_name" not in record:
            continue
        try:
            size = read_image(record["file_name"], image_format).shape[:2]
            read_foreground(record["foreground_file_name"], size, record.get("foreground_values"))
            return
        except ImageReadError as error:
            first_error = first_error or error
    if first_error is not None:
        raise ValueError(
            f"Data set {name!r}: none of its masks can be used. The first: {first_error}"
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
            f"Data set {name!r}: category_id: found {unknown}, expected 0..{len(classes) - 1} for "
            f"the classes {list(classes)}"
        )


def check_boxes(name: str, dataset_dicts: DatasetDicts) -> None:
    """Whether every object of a data set has a box.

    Raises:
        ValueError: one has none, or not four numbers, or no ``bbox_mode``; names image and object.
    """
    for record in dataset_dicts:
        for index, annotation in enumerate(record.get("annotations", ())):
            box, mode = annotation.get("bbox"), annotation.get("bbox_mode")
            if box is None or len(box) != 4 or mode is None:
                raise ValueError(
                    f"Data set {name!r}: {record.get('file_name')}: object {index}: found 'bbox' "
                    f"{box} and 'bbox_mode' {mode}, expected four numbers and one of "
                    "detectron2.structures.BoxMode, such as BoxMode.XYXY_ABS"
                )


def _check_joints_named(name: str, dataset_dicts: DatasetDicts) -> None:
    """Without names it is not known which joints swap sides in a flip, and none would be learnt."""
    names = MetadataCatalog.get(name).get("keypoint_names")
    objects = (a for record in dataset_dicts for a in record.get("annotations", ()))
    sizes = (np.size(a["keypoints"]) for a in objects if np.any(a.get("keypoints", ())))
    first = next(sizes, None)
    if first is None:
        return
    if names and first != 3 * len(names) and 3 * len(names) not in sizes:
        raise ValueError(
            f"Data set {name!r}: keypoints: found {first} numbers an object, expected "
            f"{3 * len(names)}, x, y and visibility for each of the joints {list(names)}"
        )
    if not names:
        raise ValueError(
            f"Data set {name!r}: its objects have {first // 3} joints, but its metadata "
            f"names none; type MetadataCatalog.get({name!r}).set(keypoint_names=[...], "
            "keypoint_flip_map=[('left_eye', 'right_eye'), ...]) after registering it, with the "
            "names in the order of the annotations, and the pairs that swap sides ([] if none do)"
        )


def _check_image_ids(name: str, dataset_dicts: DatasetDicts) -> None:
    """Metrics count per image: two images of one id would get each other's objects."""
    files: dict[Any, Any] = {}
    for record in dataset_dicts:
        file_name, image_id = record.get("file_name"), record.get("image_id")
        if image_id is None and "annotations" in record:
            raise ValueError(
                f"Data set {name!r}: {file_name}: image_id: found none, expected a number or text "
                "of its own for each image with objects"
            )
        if image_id is not None and image_id in files:
            raise ValueError(
                f"Data set {name!r}: image_id: found {image_id!r} for {files[image_id]} and for "
                f"{file_name}, expected another id for each image, and each image once"
            )
        files[image_id] = file_name


def _check_labels(tasks: Iterable[str], dataset_dicts: DatasetDicts, names: Sequence[str]) -> None:
    """Every asked task that the data layer knows has something to learn from."""
    objects = [
        a for record in dataset_dicts for a in record.get("annotations", ()) if not a.get("iscrowd")
    ]
    found: Mapping[str, tuple[str, bool]] = {
        "det": ("objects with boxes", bool(objects)),
        "pose": ("objects with labelled joints", any(any(a.get("keypoints", ())) for a in objects)),
        "seg": ("semantic maps", any(map(_has_sem_seg, dataset_dicts))),
        **{task: (what, any(map(has, dataset_dicts))) for task, (what, has) in DENSE_TASKS.items()},
    }
    for task in tasks:
        what, there = found.get(task, ("", True))
        if not there:
            raise ValueError(
                f"MODEL.TASKS: task {task!r} needs {what}, found none in {list(names)}; leave the "
                "task out, or add a data set with such labels to DATASETS.TRAIN"
            )


def _check_switches(cfg: CfgNode, dataset_dicts: DatasetDicts, names: Sequence[str]) -> None:
    """Masks and joints, which Detectron2's networks have by keys of their own."""
    objects = [
        a for record in dataset_dicts for a in record.get("annotations", ()) if not a.get("iscrowd")
    ]
    found = {
        "MASK_ON": ("objects with masks", any(a.get("segmentation") for a in objects)),
        "KEYPOINT_ON": ("objects with joints", any(any(a.get("keypoints", ())) for a in objects)),
    }
    for key, (what, there) in found.items():
        if cfg.MODEL[key] and not there:
            raise ValueError(
                f"MODEL.{key}: True needs {what}, found none in {list(names)}; set it to False, or "
                "add a data set with such labels to DATASETS.TRAIN"
            )


def _has_sem_seg(record: Mapping[str, Any]) -> bool:
    keys = ("sem_seg_file_name", "sem_seg_segments", "sem_seg_from_annotations")
    return any(record.get(key) for key in keys)


def _as_lists(value: Any) -> Any:
    """Detectron2 writes pairs as tuples, others as lists; both mean the same."""
    return [_as_lists(v) for v in value] if isinstance(value, list | tuple) else value
