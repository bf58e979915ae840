"""Which evaluators a data set gets: one table, from its metadata ``evaluator_type``.

An entry is a list of builders ``(cfg, request) -> evaluator or None``; ``None`` says that the tasks
or the labels leave nothing to measure. A new metric is one builder and its name in the table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from d2_multitask.data.datasets.catalog import RECONSTRUCTION_TASK, load_dataset
from d2_multitask.data.labels.foreground import has_foreground
from d2_multitask.data.labels.map_check import check_maps
from d2_multitask.data.loader import check_boxes, check_evaluated
from d2_multitask.evaluation.build_detail import PASCAL_IN_DETAIL_BUILDERS
from d2_multitask.evaluation.coco.class_agnostic import ClassAgnosticEvaluator
from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from d2_multitask.evaluation.dense.foreground import ForegroundEvaluator
from d2_multitask.evaluation.dense.reconstruction import ReconstructionEvaluator
from d2_multitask.evaluation.dense.sem_seg import MultitaskSemSegEvaluator, has_sem_seg
from d2_multitask.evaluation.request import EvaluationRequest

logger = logging.getLogger(__name__)

# COCO's metric of a task. Without "det" the boxes are only hulls of joints: not measured.
COCO_METRICS = {"det": "bbox", "pose": "keypoints"}
SEM_SEG_TASKS = frozenset({"seg"})

EvaluatorBuilder = Callable[[CfgNode, EvaluationRequest], DatasetEvaluator | None]


def build_coco_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """Box AP for "det", with ``MODEL.MASK_ON`` mask AP; keypoint AP for "pose"; as far as labelled.

    Raises:
        ValueError: the pose head has another number of joints than the data set, or
            ``TEST.KEYPOINT_OKS_SIGMAS`` has.
    """
    metrics = [metric for task, metric in COCO_METRICS.items() if task in request.tasks]
    if cfg.MODEL.MASK_ON and "det" in request.tasks:
        metrics.append("segm")
    if not metrics:
        return None
    check_boxes(request.dataset_name, request.records)
    if "keypoints" in metrics:
        _check_num_keypoints(cfg, request)
    evaluator = MultitaskCOCOEvaluator(
        request.dataset_name,
        metrics,
        output_dir=request.output_folder,
        records=request.records,
        # COCO counts the best 100 boxes; more only where the config lets the model give more.
        max_dets_per_image=max(100, cfg.TEST.DETECTIONS_PER_IMAGE),
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        backend=cfg.TEST.COCO_BACKEND,
    )
    return evaluator if evaluator.metrics else None


def _check_num_keypoints(cfg: CfgNode, request: EvaluationRequest) -> None:
    names = request.metadata.get("keypoint_names")
    found = cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS
    if names and len(names) != found:
        raise ValueError(
            f"MODEL.POSE_HEAD.NUM_KEYPOINTS: found {found}, expected {len(names)}, the joints of "
            f"data set {request.dataset_name!r}: {list(names)}"
        )


def build_sem_seg_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """IoU for "seg" where at least one image of the data set has semantic labels.

    Raises:
        ValueError: the segmentation head has another number of classes than the data set, or none
            of the maps can be used.
    """
    if not SEM_SEG_TASKS.intersection(request.tasks):
        return None
    if not any(map(has_sem_seg, request.records)):
        logger.info(f"Data set {request.dataset_name!r} has no semantic labels: no IoU for it.")
        return None
    classes = request.metadata.get("stuff_classes")
    found = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if not classes or len(classes) != found:
        known = f"{len(classes)}: {list(classes)}" if classes else "classes in 'stuff_classes'"
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES: found {found}, expected the number of semantic "
            f"classes of data set {request.dataset_name!r}, {known}"
        )
    check_maps(cfg, request.dataset_name, request.records, tasks=("seg",))
    return MultitaskSemSegEvaluator(
        request.dataset_name,
        output_dir=request.output_folder,
        records=request.records,
        ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
    )


def build_foreground_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """Binary segmentation for "foreground" where at least one image has such a label."""
    if ForegroundEvaluator.task not in request.tasks:
        return None
    if not any(map(has_foreground, request.records)):
        logger.info(f"Data set {request.dataset_name!r} has no foreground masks: no IoU for it.")
        return None
    check_maps(cfg, request.dataset_name, request.records, tasks=(ForegroundEvaluator.task,))
    return ForegroundEvaluator(
        request.dataset_name, request.records, stretch=cfg.TEST.FOREGROUND.STRETCH
    )


def build_reconstruction_evaluator(
    cfg: CfgNode, request: EvaluationRequest
) -> DatasetEvaluator | None:
    """Error of removed patches for "reconstruction"; any images will do."""
    if RECONSTRUCTION_TASK not in request.tasks:
        return None
    return ReconstructionEvaluator(request.dataset_name)


def build_recall_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """Class-agnostic recall for "det", if ``TEST.CLASS_AGNOSTIC_RECALL`` asks for it."""
    if not cfg.TEST.CLASS_AGNOSTIC_RECALL or "det" not in request.tasks:
        return None
    metrics = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    return ClassAgnosticEvaluator(request.dataset_name, metrics, records=request.records)


# The one table. "coco" and "sem_seg" are the types of Detectron2's own data sets.
EVALUATORS: dict[str, tuple[EvaluatorBuilder, ...]] = {
    "multitask_coco": (
        build_coco_evaluator,
        build_sem_seg_evaluator,
        build_recall_evaluator,
        build_foreground_evaluator,
        build_reconstruction_evaluator,
    ),
    "coco": (
        build_coco_evaluator,
        build_sem_seg_evaluator,
        build_recall_evaluator,
        build_foreground_evaluator,
        build_reconstruction_evaluator,
    ),
    "sem_seg": (build_sem_seg_evaluator, build_reconstruction_evaluator),
    "image_folder": (build_reconstruction_evaluator,),
    "mask_folder": (build_foreground_evaluator, build_reconstruction_evaluator),
    "pascal_in_detail": (
        *PASCAL_IN_DETAIL_BUILDERS,
        build_foreground_evaluator,
        build_reconstruction_evaluator,
    ),
}


# What the builders above measure, to say it where a trained task is measured by none.
_MEASURED_TASKS = {
    build_coco_evaluator: set(COCO_METRICS),
    build_sem_seg_evaluator: SEM_SEG_TASKS,
    build_recall_evaluator: {"det"},
    build_foreground_evaluator: {ForegroundEvaluator.task},
    build_reconstruction_evaluator: {RECONSTRUCTION_TASK},
}


def _warn_of_unmeasured(tasks: Sequence[str], kind: str, dataset_name: str) -> None:
    builders = EVALUATORS[kind]
    if not all(build in _MEASURED_TASKS for build in builders):
        return  # PASCAL in Detail's measure all tasks; what users' own do is theirs to say
    measured = set().union(*(_MEASURED_TASKS[build] for build in builders))
    for task in (task for task in tasks if task not in measured):
        logger.warning(
            f"Task {task!r} is not evaluated on data set {dataset_name!r}: no evaluator of its "
            f"evaluator_type {kind!r} measures it (these measure {sorted(measured)})."
        )


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluators:
    """The evaluators of a data set for ``TEST.TASKS`` (if empty, all of ``MODEL.TASKS``).

    Args:
        cfg: the config.
        dataset_name: registered name.
        output_folder: folder for predictions and intermediate files.

    Returns:
        Detectron2's collection of evaluators; it is empty, with a warning, if the data set has no
        label for any of the tasks.

    Raises:
        ValueError: the data set cannot be read, its ``evaluator_type`` is not in the table, or
            labels and config do not fit.
    """
    records = load_dataset(dataset_name)
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        raise ValueError(
            f"Data set {dataset_name!r}: metadata 'evaluator_type' is {kind!r}, expected one of "
            f"{sorted(EVALUATORS)}"
        )
    check_evaluated(dataset_name, records)
    tasks = tuple(cfg.TEST.TASKS or cfg.MODEL.TASKS)
    request = EvaluationRequest(dataset_name, records, tasks, output_folder)
    _warn_of_unmeasured(tasks, kind, dataset_name)
    built = [build(cfg, request) for build in EVALUATORS[kind]]
    evaluators = [evaluator for evaluator in built if evaluator is not None]
    if not evaluators:
        logger.warning(
            f"Data set {dataset_name!r} has no label for any of {tasks}: nothing to evaluate."
        )
    return DatasetEvaluators(evaluators)
