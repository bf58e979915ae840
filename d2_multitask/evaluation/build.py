"""Which evaluators a dataset gets: from the tasks and its metadata ``evaluator_type``.

A builder is called as ``(cfg, request)`` and returns an evaluator, or ``None`` if the labels or the
config leave nothing to measure. A task registers its own with `register_evaluator`; objects and
semantic maps are measured differently by type, in `EVALUATORS`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from d2_multitask.data.datasets.catalog import RECONSTRUCTION_TASK, load_dataset
from d2_multitask.data.labels.edges import BoundaryLabel, OcclusionLabel
from d2_multitask.data.labels.foreground import ForegroundLabel
from d2_multitask.data.labels.instances import BoxLabel, KeypointLabel
from d2_multitask.data.labels.sem_seg import ImageLabels, PartSegLabel, SemSegLabel
from d2_multitask.data.loader import check_evaluated
from d2_multitask.evaluation.boundary.evaluator import BOUNDARY, OCCLUSION, EdgeEvaluator
from d2_multitask.evaluation.build_detail import (
    build_instance_evaluator,
    build_keypoint_evaluator,
    build_semantic_evaluator,
)
from d2_multitask.evaluation.coco.class_agnostic import ClassAgnosticEvaluator
from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from d2_multitask.evaluation.dense.classification import ClassificationEvaluator
from d2_multitask.evaluation.dense.foreground import ForegroundEvaluator
from d2_multitask.evaluation.dense.reconstruction import ReconstructionEvaluator
from d2_multitask.evaluation.dense.sem_seg import MultitaskSemSegEvaluator, PartsEvaluator
from d2_multitask.evaluation.request import (
    TASK_EVALUATORS,
    EvaluationRequest,
    EvaluatorBuilder,
    register_evaluator,
)

logger = logging.getLogger(__name__)

# COCO's metric of a task. Without "det" the boxes are only hulls of keypoints: not measured.
COCO_METRICS = {"det": "bbox", "pose": "keypoints"}


def build_coco_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """Box AP for "det", with ``MODEL.MASK_ON`` mask AP; keypoint AP for "pose"; as far as labelled.

    Raises:
        ValueError: the pose head has another number of keypoints than the dataset, or
            ``TEST.KEYPOINT_OKS_SIGMAS`` has.
    """
    metrics = [metric for task, metric in COCO_METRICS.items() if task in request.tasks]
    if cfg.MODEL.MASK_ON and "det" in request.tasks:
        metrics.append("segm")
    BoxLabel().check(request.dataset_name, request.records)
    if "keypoints" in metrics:
        KeypointLabel.from_config(cfg).check_classes(request.dataset_name, request.records)
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


def build_recall_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """Class-agnostic recall for "det", if ``TEST.CLASS_AGNOSTIC_RECALL`` asks for it."""
    if not cfg.TEST.CLASS_AGNOSTIC_RECALL:
        return None
    metrics = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    return ClassAgnosticEvaluator(request.dataset_name, metrics, records=request.records)


def build_sem_seg_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """IoU for "seg".

    Raises:
        ValueError: the segmentation head has another number of classes than the dataset, or none of
            the maps can be used.
    """
    label = SemSegLabel.from_config(cfg)
    if not request.has(label):
        return None
    label.class_names(request.dataset_name)
    label.check(request.dataset_name, request.records)
    return MultitaskSemSegEvaluator(
        request.dataset_name,
        output_dir=request.output_folder,
        records=request.records,
        ignore_value=label.ignore_value,
    )


@register_evaluator(BOUNDARY, OCCLUSION)
def build_edge_evaluator(cfg: CfgNode, request: EvaluationRequest) -> EdgeEvaluator | None:
    """Boundary and occlusion metrics.

    Occlusion is scored along predicted boundaries, so it needs "boundary" among the tasks too; else
    only directions at the labelled pixels can be scored.
    """
    labels = {BOUNDARY: BoundaryLabel(), OCCLUSION: OcclusionLabel()}
    wanted = [task for task in labels if task in request.tasks]
    if not [task for task in wanted if request.has(labels[task])]:
        return None
    node = cfg.TEST.PASCAL_IN_DETAIL
    return EdgeEvaluator(
        request.dataset_name,
        request.records,
        tasks=wanted,
        num_thresholds=node.BOUNDARY_THRESHOLDS,
        max_distance=node.BOUNDARY_MAX_DISTANCE,
        num_workers=node.NUM_WORKERS,
        output_dir=request.output_folder,
    )


@register_evaluator("parts")
def build_parts_evaluator(cfg: CfgNode, request: EvaluationRequest) -> PartsEvaluator | None:
    """IoU of background and human parts.

    Raises:
        ValueError: the head has another number of parts than the dataset.
    """
    label = PartSegLabel.from_config(cfg)
    if not request.has(label):
        return None
    names = label.class_names(request.dataset_name)
    return PartsEvaluator(request.dataset_name, request.records, names)


@register_evaluator("classification")
def build_classification_evaluator(
    cfg: CfgNode, request: EvaluationRequest
) -> ClassificationEvaluator | None:
    """AP of image labels.

    Raises:
        ValueError: the head has another number of classes than the dataset.
    """
    label = ImageLabels.from_config(cfg)
    if not request.has(label):
        return None
    return ClassificationEvaluator(
        request.dataset_name,
        request.records,
        label.class_names(request.dataset_name),
        legacy=cfg.TEST.PASCAL_IN_DETAIL.LEGACY,
    )


@register_evaluator(ForegroundEvaluator.task)
def build_foreground_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """Binary segmentation.

    Raises:
        ValueError: none of the masks can be used.
    """
    label = ForegroundLabel()
    if not request.has(label):
        return None
    label.check(request.dataset_name, request.records)
    return ForegroundEvaluator(
        request.dataset_name, request.records, stretch=cfg.TEST.FOREGROUND.STRETCH
    )


@register_evaluator(RECONSTRUCTION_TASK)
def build_reconstruction_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator:
    """Error of removed patches; any images will do."""
    return ReconstructionEvaluator(request.dataset_name)


_COCO: Mapping[str, tuple[EvaluatorBuilder, ...]] = {
    "det": (build_coco_evaluator, build_recall_evaluator),
    "pose": (build_coco_evaluator,),
    "seg": (build_sem_seg_evaluator,),
}

# evaluator_type -> task -> what measures it there, beside `TASK_EVALUATORS`. "coco" and "sem_seg"
# are the types of Detectron2's own datasets.
EVALUATORS: dict[str, Mapping[str, tuple[EvaluatorBuilder, ...]]] = {
    "multitask_coco": _COCO,
    "coco": _COCO,
    "sem_seg": {"seg": (build_sem_seg_evaluator,)},
    "image_folder": {},
    "mask_folder": {},
    "pascal_in_detail": {
        # With MODEL.KEYPOINT_ON the keypoints are found with the boxes.
        "det": (build_instance_evaluator, build_keypoint_evaluator),
        "pose": (build_keypoint_evaluator,),
        "seg": (build_semantic_evaluator,),
    },
}


def _builders(tasks: Sequence[str], kind: str, dataset_name: str) -> list[EvaluatorBuilder]:
    """What measures the tasks on a dataset of a type, each builder once; warns of the others."""
    table = {**EVALUATORS[kind], **TASK_EVALUATORS}
    for task in (task for task in tasks if task not in table):
        logger.warning(
            f"Task {task!r} is not evaluated on dataset {dataset_name!r}: no evaluator of its "
            f"evaluator_type {kind!r} measures it (these measure {sorted(table)})."
        )
    # In the order of the table.
    return list(dict.fromkeys(b for task in table if task in tasks for b in table[task]))


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluators:
    """The evaluators of a dataset for ``TEST.TASKS`` (if empty, all of ``MODEL.TASKS``).

    Args:
        cfg: the config.
        dataset_name: registered name.
        output_folder: folder for predictions and intermediate files.

    Returns:
        Detectron2's collection of evaluators; it is empty, with a warning, if the dataset has no
        label for any of the tasks.

    Raises:
        ValueError: the dataset cannot be read, its ``evaluator_type`` is not in the table, or
            labels and config do not fit.
    """
    records = load_dataset(dataset_name)
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        raise ValueError(
            f"Dataset {dataset_name!r}: metadata 'evaluator_type' is {kind!r}, expected one of "
            f"{sorted(EVALUATORS)}"
        )
    check_evaluated(dataset_name, records)
    tasks = tuple(cfg.TEST.TASKS or cfg.MODEL.TASKS)
    request = EvaluationRequest(dataset_name, records, tasks, output_folder)
    built = [build(cfg, request) for build in _builders(tasks, kind, dataset_name)]
    evaluators = [evaluator for evaluator in built if evaluator is not None]
    if not evaluators:
        logger.warning(
            f"Dataset {dataset_name!r} has no label for any of {tasks}: nothing to evaluate."
        )
    return DatasetEvaluators(evaluators)
