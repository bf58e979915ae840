"""The network's objects -> those of the image: threshold, NMS, scale, borders."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from d2_multitask.runtime.model_info import ObjectsInfo

Arrays = Mapping[str, np.ndarray]


def image_objects(
    outputs: Arrays, info: ObjectsInfo, window: tuple[int, int, int, int], size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """As the centre head's post-processing.

    Args:
        outputs: of one image, P ranks, in pixels of the network input: ``scores`` (P,),
            ``classes`` (P,), ``boxes`` (P, 4) xyxy, maybe ``keypoints`` (P, K, 3).
        info: thresholds.
        window: y, x, h, w of the image in the network input.
        size: (h, w) of the image.

    Returns:
        The same of the n objects that are found, in pixels of the image.
    """
    kept = outputs["scores"] > info.score_threshold
    fields = {name: value[kept] for name, value in outputs.items()}
    if info.nms_threshold > 0:
        kept = nms(fields["boxes"], fields["scores"], fields["classes"], info.nms_threshold)
        fields = {name: value[kept] for name, value in fields.items()}
    y, x, *window_size = window
    offset = np.array([x, y], np.float32)
    scale = np.array([size[1] / window_size[1], size[0] / window_size[0]], np.float32)
    corners = ((fields["boxes"].reshape(-1, 2, 2) - offset) * scale).clip(0, size[::-1])
    fields["boxes"] = corners.astype(np.float32).reshape(-1, 4)
    fields["classes"] = fields["classes"].astype(np.int64)
    if "keypoints" in fields:
        fields["keypoints"][..., :2] = (fields["keypoints"][..., :2] - offset) * scale
    is_left = (corners[:, 1] > corners[:, 0]).all(1)
    return {name: value[is_left] for name, value in fields.items()}


def nms(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, threshold: float) -> np.ndarray:
    """Non-maximum suppression per class.

    Args:
        boxes: (n, 4) xyxy.
        scores: (n,).
        classes: (n,).
        threshold: IoU above which the weaker of two boxes goes.

    Returns:
        (m,) indices of the boxes that are left, best first.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, classes = boxes[order].astype(np.float64), classes[order]
    top_left = np.maximum(boxes[:, None, :2], boxes[:, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared = (bottom_right - top_left).clip(0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    overlaps = shared > threshold * (areas[:, None] + areas - shared)
    # [i, j]: i, the better one, removes j if it is left itself.
    removes = np.triu(overlaps & (classes[:, None] == classes), 1)
    left = np.ones(len(boxes), bool)
    while True:  # each pass settles at least one more box
        settled = ~(removes & left[:, None]).any(0)
        if (settled == left).all():
            return order[left]
        left = settled
