"""Which evaluators a dataset gets: from the tasks and its metadata ``evaluator_type``.

A builder is called as ``(cfg, request)`` and returns an evaluator, or ``None`` if the labels or the
config leave nothing to measure; it raises ValueError where config and dataset do not fit, such as
another number of classes. A task registers its own with `register_evaluator`; objects and semantic
maps are measured differently by type, in `EVALUATORS`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from d2_multitask.data.datasets.catalog import RECONSTRUCTION_TASK, load_dataset
from d2_multitask.data.labels.base import Label
from d2_multitask.data.labels.edges import BoundaryLabel, OcclusionLabel
from d2_multitask.data.labels.foreground import ForegroundLabel
from d2_multitask.data.labels.instances import (
    BoxLabel,
    KeypointLabel,
    MaskLabel,
    RoiKeypointLabel,
)
from d2_multitask.data.labels.sem_seg import ImageLabels, PartSegLabel, SemSegLabel
from d2_multitask.data.loader import check_evaluated
from d2_multitask.evaluation.base import (
    TASK_EVALUATORS,
    EvaluationRequest,
    EvaluatorBuilder,
    register_evaluator,
)
from d2_multitask.evaluation.boundary.evaluator import BOUNDARY, OCCLUSION, EdgeEvaluator
from d2_multitask.evaluation.coco.class_agnostic import ClassAgnosticEvaluator
from d2_multitask.evaluation.coco.detail import DetailCOCOEvaluator, has_keypoints
from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from d2_multitask.evaluation.dense.classification import ClassificationEvaluator
from d2_multitask.evaluation.dense.foreground import ForegroundEvaluator
from d2_multitask.evaluation.dense.reconstruction import ReconstructionEvaluator
from d2_multitask.evaluation.dense.sem_seg import (
    MultitaskSemSegEvaluator,
    PartsEvaluator,
    SemanticEvaluator,
)
from d2_multitask.evaluation.panoptic import PanopticEvaluator

logger = logging.getLogger(__name__)

# COCO's metric of a task. Without "det" the boxes are only hulls of keypoints: not measured.
COCO_METRICS = {"det": "bbox", "pose": "keypoints"}
PERSON = "person"


def add_pascal_in_detail_config(cfg: CfgNode) -> None:
    """Add ``TEST.PASCAL_IN_DETAIL`` to a config, in place."""
    cfg.TEST.PASCAL_IN_DETAIL = node = CfgNode()
    # Also give the numbers of the official evaluation code, with its defects, as "bbox-legacy",
    # "segm-legacy", "keypoints-legacy" and "image_labels-legacy".
    node.LEGACY = False
    # Thresholds of the boundary map. BSDS has 99; DOC has 33, in a third of the time.
    node.BOUNDARY_THRESHOLDS = 33
    # Largest distance of matched boundary pixels as a share of the image's diagonal: BSDS' value.
    node.BOUNDARY_MAX_DISTANCE = 0.0075
    # Processes that match boundaries beside the network; -1 = as many as there are processors,
    # 0 = none.
    node.NUM_WORKERS = -1


def build_coco_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """Box AP for "det", with ``MODEL.MASK_ON`` mask AP; keypoint AP for "pose"; as far as labelled.

    The numbers of keypoints must be those of the dataset and of ``TEST.KEYPOINT_OKS_SIGMAS``.
    """
    metrics = [metric for task, metric in COCO_METRICS.items() if task in request.tasks]
    if "det" in request.tasks and _has_masks(cfg, request):
        metrics.append("segm")
    BoxLabel().check(request.dataset_name, request.records)
    if "keypoints" in metrics:
        KeypointLabel.from_config(cfg).check_classes(request.dataset_name, request.records)
    evaluator = MultitaskCOCOEvaluator(
        request.dataset_name,
        metrics,
        records=request.records,
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        **_coco_options(cfg, request.output_folder),
    )
    return evaluator if evaluator.metrics else None


def _has_masks(cfg: CfgNode, request: EvaluationRequest) -> bool:
    """Whether objects get masks: of an R-CNN's head, or as parts of the semantic map."""
    from_map = cfg.MODEL.META_ARCHITECTURE in ("MultitaskCenterNet", "MultitaskMAE")
    return cfg.MODEL.MASK_ON and (not from_map or "seg" in request.tasks)


def _coco_options(cfg: CfgNode, output_folder: str) -> dict[str, Any]:
    return {
        "output_dir": output_folder,
        # COCO counts the best 100 boxes; more only where the config lets the model give more.
        "max_dets_per_image": max(100, cfg.TEST.DETECTIONS_PER_IMAGE),
        "backend": cfg.TEST.COCO_BACKEND,
    }


def build_recall_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """Class-agnostic recall for "det", if ``TEST.CLASS_AGNOSTIC_RECALL`` asks for it."""
    if not cfg.TEST.CLASS_AGNOSTIC_RECALL:
        return None
    metrics = ("bbox", "segm") if _has_masks(cfg, request) else ("bbox",)
    return ClassAgnosticEvaluator(request.dataset_name, metrics, records=request.records)


def build_instance_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator:
    """PASCAL in Detail: box AP, and mask AP with ``MODEL.MASK_ON``, on all thing classes."""
    return DetailCOCOEvaluator(
        request.dataset_name,
        request.records,
        list(request.metadata.thing_classes),
        ["bbox", "segm"] if _has_masks(cfg, request) else ["bbox"],
        legacy=cfg.TEST.PASCAL_IN_DETAIL.LEGACY,
        **_coco_options(cfg, request.output_folder),
    )


def build_keypoint_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """PASCAL in Detail: keypoint AP of people, for "pose", or for "det" with ``MODEL.KEYPOINT_ON``.

    The numbers of keypoints must be those of the dataset and of ``TEST.KEYPOINT_OKS_SIGMAS``.
    """
    pose = "pose" in request.tasks
    if not pose and not cfg.MODEL.KEYPOINT_ON:
        return None
    classes = list(request.metadata.thing_classes)
    if PERSON not in classes or not has_keypoints(request.records):
        logger.info(f"Dataset {request.dataset_name!r} has no keypoints: no metric for them.")
        return None
    label = (KeypointLabel if pose else RoiKeypointLabel).from_config(cfg)
    label.class_names(request.dataset_name)  # as many keypoints as the network's
    sigmas = list(cfg.TEST.KEYPOINT_OKS_SIGMAS or request.metadata.get("keypoint_oks_sigmas", ()))
    return DetailCOCOEvaluator(
        request.dataset_name,
        request.records,
        classes,
        ["keypoints"],
        only_class=classes.index(PERSON),
        legacy=cfg.TEST.PASCAL_IN_DETAIL.LEGACY,
        kpt_oks_sigmas=sigmas,
        **_coco_options(cfg, os.path.join(request.output_folder, "keypoints")),
    )


def _class_names(label: Label, request: EvaluationRequest) -> list[str] | None:
    """The names of the dataset's classes; ``None`` if no image has the label."""
    return label.class_names(request.dataset_name) if request.has(label) else None


def build_sem_seg_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """IoU for "seg"; some of the maps must be usable."""
    label = SemSegLabel.from_config(cfg)
    if not _class_names(label, request):
        return None
    label.check(request.dataset_name, request.records)
    return MultitaskSemSegEvaluator(
        request.dataset_name,
        output_dir=request.output_folder,
        records=request.records,
        ignore_value=label.ignore_value,
    )


def build_panoptic_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """PQ, if ``TEST.PANOPTIC`` asks for it; objects need masks, and classes those of the map."""
    label = SemSegLabel.from_config(cfg)
    if not cfg.TEST.PANOPTIC or not {"det", "pose"}.intersection(request.tasks):
        return None
    if not (request.has(MaskLabel()) and _class_names(label, request)):
        return None
    if any("labelled_classes" in r or "sem_seg_hidden" in r for r in request.records):
        logger.warning(
            f"TEST.PANOPTIC: no PQ on dataset {request.dataset_name!r}: it does not label all of "
            "the network's classes"
        )
        return None
    metadata = request.metadata
    return PanopticEvaluator(
        request.dataset_name, request.records, metadata.thing_classes, metadata.stuff_classes
    )


def build_semantic_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """PASCAL in Detail: IoU of the 59 classes for "seg"."""
    names = _class_names(SemSegLabel.from_config(cfg), request)
    return names and SemanticEvaluator(request.dataset_name, request.records, names)


@register_evaluator(BOUNDARY, OCCLUSION)
def build_edge_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
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
def build_parts_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """IoU of background and human parts."""
    names = _class_names(PartSegLabel.from_config(cfg), request)
    return names and PartsEvaluator(request.dataset_name, request.records, names)


@register_evaluator("classification")
def build_classification_evaluator(
    cfg: CfgNode, request: EvaluationRequest
) -> DatasetEvaluator | None:
    """AP of image labels, or accuracy."""
    names = _class_names(ImageLabels.from_config(cfg), request)
    return names and ClassificationEvaluator(
        request.dataset_name,
        request.records,
        names,
        legacy=cfg.TEST.PASCAL_IN_DETAIL.LEGACY,
        single_label=cfg.MODEL.CLASSIFICATION_HEAD.SINGLE_LABEL,
    )


@register_evaluator(ForegroundEvaluator.task)
def build_foreground_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DatasetEvaluator | None:
    """Binary segmentation; some of the masks must be usable."""
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
    "seg": (build_sem_seg_evaluator, build_panoptic_evaluator),
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
    if cfg.TEST.PANOPTIC and build_panoptic_evaluator not in EVALUATORS[kind].get("seg", ()):
        logger.warning(
            f"TEST.PANOPTIC: no PQ on dataset {dataset_name!r}: its evaluator_type is {kind!r}, "
            "expected 'coco' or 'multitask_coco'"
        )
    tasks = tuple(cfg.TEST.TASKS or cfg.MODEL.TASKS)
    request = EvaluationRequest(dataset_name, records, tasks, output_folder)
    built = [build(cfg, request) for build in _builders(tasks, kind, dataset_name)]
    evaluators = [evaluator for evaluator in built if evaluator is not None]
    if not evaluators:
        logger.warning(
            f"Dataset {dataset_name!r} has no label for any of {tasks}: nothing to evaluate."
        )
    return DatasetEvaluators(evaluators)
