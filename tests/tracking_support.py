"""Results with people at given places."""

from __future__ import annotations

import numpy as np

from d2_multitask.runtime.model_info import DrawInfo, InputInfo, ModelInfo, ObjectsInfo
from d2_multitask.runtime.result import Result

SIGMAS = (0.05, 0.05, 0.05)


def model_info() -> ModelInfo:
    """A network with two classes and three keypoints."""
    objects = ObjectsInfo(
        score_threshold=0.01,
        nms_threshold=0.0,
        class_names=("person", "dog"),
        category_ids=(1, 18),
        keypoint_names=("head", "hip", "foot"),
        keypoint_sigmas=SIGMAS,
        skeleton=((0, 1), (1, 2)),
        draw_boxes=True,
    )
    network_input = InputInfo("BGR", 32, "shortest_edge", 96, 96, None, 0)
    return ModelInfo("0", "test", network_input, {}, objects, {}, DrawInfo())


def people(xs, scores=None, *, classes=None, width=20.0, height=60.0, keypoints=True) -> Result:
    """Upright people with their middles at ``xs``, in a picture of 100 x 400 pixels."""
    xs = np.array(xs, np.float32).reshape(-1)
    low, high = np.full_like(xs, 20.0), np.full_like(xs, 20.0 + height)
    boxes = np.stack((xs - width / 2, low, xs + width / 2, high), 1)
    points = np.stack([np.stack((xs, low + s * height, low * 0 + 0.9), 1) for s in (0, 0.5, 1)], 1)
    return Result(
        (100, 400),
        model_info(),
        boxes=boxes,
        scores=np.full(len(xs), 0.9, np.float32) if scores is None else np.float32(scores),
        classes=np.zeros(len(xs), np.int64) if classes is None else np.array(classes),
        keypoints=points.astype(np.float32) if keypoints else None,
    )
