"""Timing of parts of a network, side by side in one run, and the loops to compare with."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances, Keypoints


@dataclass(frozen=True)
class Timing:
    """Seconds of each counted run of one function."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the runs, seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest run, seconds."""
        return min(self.seconds), max(self.seconds)


def time_interleaved(
    functions: dict[str, Callable[[], Any]], runs: int = 10, warmup: int = 2
) -> dict[str, Timing]:
    """Time functions in turn, A B C A B C ..., so that a drifting machine drifts for all of them.

    Args:
        functions: name -> what to run.
        runs: counted runs of each.
        warmup: runs of each before that, not counted.

    Returns:
        name -> timing.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + runs):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            # Work on a GPU is asynchronous; without this only its launch would be timed.
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def random_people(
    num_images: int,
    num_people: int,
    image_hw: tuple[int, int],
    num_keypoints: int = 17,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Entries of ``batched_inputs`` with people of all sizes, every joint labelled.

    Heights are log-uniform between 1/16 of the image's height and all of it.

    Args:
        num_images: N.
        num_people: people an image.
        image_hw: (H, W) pixels.
        num_keypoints: K.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = image_hw
    batch = []
    for _ in range(num_images):
        scale = torch.rand(num_people, 1, generator=generator) * math.log(16)
        wh = height / 16 * scale.exp() * torch.tensor([0.45, 1.0])
        center = torch.rand(num_people, 2, generator=generator) * torch.tensor([width, height])
        low = (center - wh / 2).clamp(min=0)
        high = torch.minimum(center + wh / 2, torch.tensor([width, height]).float())
        place = torch.rand(num_people, num_keypoints, 2, generator=generator)
        joints = low[:, None] + place * (high - low)[:, None]
        instances = Instances(image_hw)
        instances.gt_boxes = Boxes(torch.cat([low, high], 1))
        instances.gt_classes = torch.zeros(num_people, dtype=torch.long)
        visibility = torch.full((num_people, num_keypoints, 1), 2.0)
        instances.gt_keypoints = Keypoints(torch.cat([joints, visibility], 2))
        image = torch.randint(0, 256, (3, *image_hw), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances})
    return batch


def loop_targets(batch: list[dict[str, Any]], stride: int = 4) -> dict[str, np.ndarray]:
    """Centre, box and pose targets made object by object and joint by joint in NumPy.

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
        for box, joints in zip(boxes, keypoints, strict=True):
            w, h = box[2:] - box[:2]
            center = (box[:2] + box[2:]) / 2
            x, y = _cell(center, height, width)
            radius = _radius(math.ceil(h), math.ceil(w))
            _draw(maps["heatmap"][index, 0], x, y, radius)
            maps["wh"][index, :, y, x] = w, h
            maps["offset"][index, :, y, x] = center - (x, y)
            for k in range(num_keypoints):
                if joints[k, 2] == 0:
                    continue
                joint = joints[k, :2] / stride
                maps["keypoint_offset"][index, 2 * k : 2 * k + 2, y, x] = joint - (x, y)
                _draw(maps["keypoint_heatmap"][index, k], *_cell(joint, height, width), radius)
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
