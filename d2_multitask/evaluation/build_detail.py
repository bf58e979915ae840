"""PASCAL in Detail's metrics of objects, keypoints and semantic maps."""

from __future__ import annotations

import logging
import os

from detectron2.config import CfgNode

from d2_multitask.data.labels.instances import KeypointLabel, RoiKeypointLabel
from d2_multitask.data.labels.sem_seg import SemSegLabel
from d2_multitask.evaluation.coco.detail import DetailCOCOEvaluator, has_keypoints
from d2_multitask.evaluation.dense.sem_seg import SemanticEvaluator
from d2_multitask.evaluation.request import EvaluationRequest

logger = logging.getLogger(__name__)

PERSON = "person"


def build_instance_evaluator(cfg: CfgNode, request: EvaluationRequest) -> DetailCOCOEvaluator:
    """Box AP for "det", and mask AP with ``MODEL.MASK_ON``, on all thing classes."""
    return DetailCOCOEvaluator(
        request.dataset_name,
        request.records,
        list(request.metadata.thing_classes),
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
        ValueError: the network has another number of keypoints than the dataset, or
            ``TEST.KEYPOINT_OKS_SIGMAS`` has.
    """
    pose = "pose" in request.tasks
    label = (KeypointLabel if pose else RoiKeypointLabel).from_config(cfg)
    classes = list(request.metadata.thing_classes)
    if not pose and not cfg.MODEL.KEYPOINT_ON:
        return None
    if PERSON not in classes or not has_keypoints(request.records):
        logger.info(f"Dataset {request.dataset_name!r} has no keypoints: no metric for them.")
        return None
    names = label.class_names(request.dataset_name)
    sigmas = list(cfg.TEST.KEYPOINT_OKS_SIGMAS or request.metadata.get("keypoint_oks_sigmas", ()))
    if len(sigmas) != len(names):
        raise ValueError(
            f"TEST.KEYPOINT_OKS_SIGMAS: found {len(sigmas)}, expected {len(names)}, for the "
            f"keypoints of dataset {request.dataset_name!r}: {names}"
        )
    return DetailCOCOEvaluator(
        request.dataset_name,
        request.records,
        classes,
        ["keypoints"],
        output_dir=os.path.join(request.output_folder, "keypoints"),
        only_class=classes.index(PERSON),
        legacy=cfg.TEST.PASCAL_IN_DETAIL.LEGACY,
        backend=cfg.TEST.COCO_BACKEND,
        kpt_oks_sigmas=sigmas,
    )


def build_semantic_evaluator(cfg: CfgNode, request: EvaluationRequest) -> SemanticEvaluator | None:
    """IoU of the 59 classes for "seg".

    Raises:
        ValueError: the head has another number of classes.
    """
    label = SemSegLabel.from_config(cfg)
    if not request.has(label):
        return None
    names = label.class_names(request.dataset_name)
    return SemanticEvaluator(request.dataset_name, request.records, names)
