"""The customary loop that makes targets, to be compared with in time and in result."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def loop_targets(batch: list[dict[str, Any]], stride: int = 4) -> dict[str, np.ndarray]:
    """Centre, box and pose targets made object by object and keypoint by keypoint in NumPy.

    This is the customary way (a data loader that draws each Gaussian in its window); it is here to
    be compared with, in time and in result. Radius rule ``centernet``, minimal overlap 0.7.

    Args:
        batch: entries with ``instances``, all images of one size.
        stride: input pixels per cell.

    Returns:
        ``heatmap`` (N, 1, h, w), ``keypoint_heatmap`` (N, K, h, w), and dense ``wh`` (N, 2, h, w),
        ``offset`` (N, 2, h, w) and ``keypoint_offset`` (N, 2K, h, w), zero but at centres.
    """
    height, width = (side // stride for side in batch[0]["image"].shape[1:])
    num_keypoints = batch[0]["instances"].gt_keypoints.tensor.shape[1]
    shapes = {"heatmap": 1, "keypoint_heatmap": num_keypoints, "wh": 2, "offset": 2}
    shapes["keypoint_offset"] = 2 * num_keypoints
    maps = {
        name: np.zeros((len(batch), channels, height, width), np.float32)
        for name, channels in shapes.items()
    }
    for index, entry in enumerate(batch):
        boxes = entry["instances"].gt_boxes.tensor.numpy() / stride
        keypoints = entry["instances"].gt_keypoints.tensor.numpy()
        for box, points in zip(boxes, keypoints, strict=True):
            w, h = box[2:] - box[:2]
            center = (box[:2] + box[2:]) / 2
            x, y = _cell(center, height, width)
            radius = _radius(math.ceil(h), math.ceil(w))
            _draw(maps["heatmap"][index, 0], x, y, radius)
            maps["wh"][index, :, y, x] = w, h
            maps["offset"][index, :, y, x] = center - (x, y)
            for k in range(num_keypoints):
                if points[k, 2] == 0:
                    continue
                point = points[k, :2] / stride
                maps["keypoint_offset"][index, 2 * k : 2 * k + 2, y, x] = point - (x, y)
                _draw(maps["keypoint_heatmap"][index, k], *_cell(point, height, width), radius)
    return maps


def _cell(point: np.ndarray, height: int, width: int) -> tuple[int, int]:
    return min(int(point[0]), width - 1), min(int(point[1]), height - 1)


def _radius(height: int, width: int, overlap: float = 0.7) -> int:
    total, area = height + width, height * width
    root = math.sqrt((overlap * total) ** 2 + 4 * overlap * (1 - overlap) * area)
    return max(0, int(root - overlap * total))


def _draw(heatmap: np.ndarray, x: int, y: int, radius: int) -> None:
    steps = np.arange(-radius, radius + 1)
    sigma = (2 * radius + 1) / 6
    window = np.exp(-(steps[:, None] ** 2 + steps[None, :] ** 2) / (2 * sigma**2))
    height, width = heatmap.shape
    left, right = min(x, radius), min(width - x, radius + 1)
    top, bottom = min(y, radius), min(height - y, radius + 1)
    part = heatmap[y - top : y + bottom, x - left : x + right]
    np.maximum(
        part,
        window[radius - top : radius + bottom, radius - left : radius + right],
        out=part,
    )
