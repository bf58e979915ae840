"""Which of PASCAL in Detail's metrics a config asks for."""

from __future__ import annotations

import logging
import os
from typing import Any

from detectron2.config import CfgNode

from d2_multitask.evaluation.boundary.evaluator import (
    BOUNDARY,
    OCCLUSION,
    EdgeEvaluator,
)
from d2_multitask.evaluation.coco.detail import DetailCOCOEvaluator, has_keypoints
from d2_multitask.evaluation.dense.classification import ClassificationEvaluator
from d2_multitask.evaluation.dense.sem_seg import PartsEvaluator, SemanticEvaluator
from d2_multitask.evaluation.request import EvaluationRequest

logger = logging.getLogger(__name__)

PERSON = "person"


def build_instance_evaluator(
    cfg: CfgNode, request: EvaluationRequest
) -> DetailCOCOEvaluator | None:
    """Box AP for "det", and mask AP with ``MODEL.MASK_ON``, on all thing classes."""
    if "det" not in request.tasks:
        return None
    return DetailCOCOEvaluator(
        request.dataset_name,
        request.records,
        _class_names(request, "thing_classes"),
        ["bbox", "segm"] if cfg.MODEL.MASK_ON else ["bbox"],
        output_dir=request.output_folder,
        legacy=cfg.TEST.PASCAL_IN_DETAIL.LEGACY,
        backend=cfg.TEST.COCO_BACKEND,
        max_dets_per_image=max(100, cfg.TEST.DETECTIONS_PER_IMAGE),
    )


def build_keypoint_evaluator(
    cfg: CfgNode, request: EvaluationRequest
) -> DetailCOCOEvaluator | None:
    """Keypoint AP of people, for "pose", or for "det" with ``MODEL.KEYPOINT_ON``.

    Raises:
        ValueError: the network has another number of joints than the data set, or
            ``TEST.KEYPOINT_OKS_SIGMAS`` has.
    """
    pose = "pose" in request.tasks
    if not pose and not ("det" in request.tasks and cfg.MODEL.KEYPOINT_ON):
        return None
    classes = _class_names(request, "thing_classes")
    if PERSON not in classes or not has_keypoints(request.records):
        logger.info(f"Data set {request.dataset_name!r} has no joints: no keypoint AP for it.")
        return None
    names = _class_names(request, "keypoint_names")
    head, key = (
        (cfg.MODEL.POSE_HEAD, "POSE_HEAD")
        if pose
        else (cfg.MODEL.ROI_KEYPOINT_HEAD, "ROI_KEYPOINT_HEAD")
    )
    _check_number(request, f"MODEL.{key}.NUM_KEYPOINTS", head.NUM_KEYPOINTS, names)
    sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS or request.metadata.get("keypoint_oks_sigmas") or ()
    _check_number(request, "TEST.KEYPOINT_OKS_SIGMAS", len(sigmas), names)
    return DetailCOCOEvaluator(
        request.dataset_name,
        request.records,
        classes,
        ["keypoints"],
        output_dir=os.path.join(request.output_folder, "keypoints"),
        only_class=classes.index(PERSON),
        legacy=cfg.TEST.PASCAL_IN_DETAIL.LEGACY,
        backend=cfg.TEST.COCO_BACKEND,
        kpt_oks_sigmas=list(sigmas),
    )


def build_semantic_evaluator(cfg: CfgNode, request: EvaluationRequest) -> SemanticEvaluator | None:
    """IoU of the 59 classes for "seg".

    Raises:
        ValueError: the head has another number of classes.
    """
    keys = ("sem_seg_segments", "sem_seg_file_name")
    if "seg" not in request.tasks or not _labelled(request, "semantic maps", *keys):
        return None
    classes = _class_names(request, "stuff_classes")
    found = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    _check_number(request, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", found, classes)
    return SemanticEvaluator(request.dataset_name, request.records, classes)


def build_parts_evaluator(cfg: CfgNode, request: EvaluationRequest) -> PartsEvaluator | None:
    """IoU of background and human parts for "parts"."""
    keys = ("part_seg_segments", "part_seg_file_name")
    if "parts" not in request.tasks or not _labelled(request, "human parts", *keys):
        return None
    classes = _class_names(request, "part_classes")
    return PartsEvaluator(request.dataset_name, request.records, classes)


def build_classification_evaluator(
    cfg: CfgNode, request: EvaluationRequest
) -> ClassificationEvaluator | None:
    """AP of image labels for "classification"."""
    wanted = "classification" in request.tasks
    if not wanted or not _labelled(request, "image labels", "image_labels"):
        return None
    return ClassificationEvaluator(
        request.dataset_name,
        request.records,
        _class_names(request, "stuff_classes"),
        legacy=cfg.TEST.PASCAL_IN_DETAIL.LEGACY,
    )


def build_edge_evaluator(cfg: CfgNode, request: EvaluationRequest) -> EdgeEvaluator | None:
    """Boundary and occlusion metrics for "boundary" and "occlusion".

    Occlusion is scored along predicted boundaries, so it needs "boundary" among the tasks too; else
    only directions at the labelled pixels can be.
    """
    keys = {
        BOUNDARY: ("boundary_segmentation", "boundary_file_name"),
        OCCLUSION: ("occlusion_fragments",),
    }
    wanted = [task for task in keys if task in request.tasks]
    labelled = [task for task in wanted if _labelled(request, f"{task} labels", *keys[task])]
    if not labelled:
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


# In the order in which they run for each batch.
PASCAL_IN_DETAIL_BUILDERS = (
    build_edge_evaluator,
    build_instance_evaluator,
    build_keypoint_evaluator,
    build_semantic_evaluator,
    build_parts_evaluator,
    build_classification_evaluator,
)


def _labelled(request: EvaluationRequest, what: str, *keys: str) -> bool:
    """Whether any image has one of the keys; says so if none has."""
    found = any(key in record for record in request.records for key in keys)
    if not found:
        logger.info(f"Data set {request.dataset_name!r} has no {what}: no metric for them.")
    return found


def _class_names(request: EvaluationRequest, name: str) -> list[str]:
    """Names in the metadata.

    Raises:
        ValueError: there are none.
    """
    names = request.metadata.get(name)
    if not names:
        raise ValueError(
            f"Data set {request.dataset_name!r}: metadata {name!r}: found nothing, expected names"
        )
    return list(names)


def _check_number(request: EvaluationRequest, key: str, found: Any, names: list[str]) -> None:
    if found != len(names):
        raise ValueError(
            f"{key}: found {found}, expected {len(names)}, for the names of data set "
            f"{request.dataset_name!r}: {names}"
        )
