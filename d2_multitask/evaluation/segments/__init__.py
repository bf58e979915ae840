"""Metrics of segments that were found without labels."""

from d2_multitask.evaluation.coco.class_agnostic import class_agnostic_recall
from d2_multitask.evaluation.segments.evaluator import SegmentsEvaluator
from d2_multitask.evaluation.segments.mask_files import mask_files, read_object_mask
from d2_multitask.evaluation.segments.metrics import (
    SegmentMetrics,
    adjusted_rand_index,
    best_segment_iou,
    mask_iou,
    patch_mask,
)

__all__ = [
    "SegmentMetrics",
    "SegmentsEvaluator",
    "adjusted_rand_index",
    "best_segment_iou",
    "class_agnostic_recall",
    "mask_files",
    "mask_iou",
    "patch_mask",
    "read_object_mask",
]
