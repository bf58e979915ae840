"""How good segments are that were found without labels.

`metrics.py`: numbers of one image; `class_agnostic.py`: COCO's average recall without classes;
`label_maps.py`: reading masks; `evaluator.py`: all of them over a data set.
"""

from d2_multitask.evaluation.coco.class_agnostic import class_agnostic_recall
from d2_multitask.evaluation.segments.evaluator import SegmentsEvaluator
from d2_multitask.evaluation.segments.mask_files import mask_files, read_object_mask
from d2_multitask.evaluation.segments.metrics import (
    SegmentMetrics,
    adjusted_rand_index,
    best_segment_iou,
    box_iou,
    mask_box,
    mask_iou,
    patch_mask,
)

__all__ = [
    "SegmentMetrics",
    "SegmentsEvaluator",
    "adjusted_rand_index",
    "best_segment_iou",
    "box_iou",
    "class_agnostic_recall",
    "mask_box",
    "mask_files",
    "mask_iou",
    "patch_mask",
    "read_object_mask",
]
