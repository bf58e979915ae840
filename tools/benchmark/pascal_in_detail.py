"""Time of PASCAL in Detail's eight metrics, on drawn images, one row for each metric."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from d2_multitask.data.datasets.pascal_in_detail.names import (
    KEYPOINT_OKS_SIGMAS,
    NUM_KEYPOINTS,
    PART_CLASSES,
    STUFF_CLASSES,
    THING_CLASSES,
)
from d2_multitask.evaluation.boundary.evaluator import EdgeEvaluator
from d2_multitask.evaluation.coco.detail import DetailCOCOEvaluator
from d2_multitask.evaluation.dense.classification import ClassificationEvaluator
from d2_multitask.evaluation.dense.sem_seg import PartsEvaluator, SemanticEvaluator

VAL_IMAGES = 5104
"""Images of PASCAL in Detail's validation phase."""
PERSON = THING_CLASSES.index("person")
_NUM_DETECTIONS = 20


@dataclass(frozen=True)
class MetricTime:
    """Time of one evaluator.

    Attributes:
        images: number of images.
        seconds: wall clock, of `process` for all images and of `evaluate`.
        cpu_seconds: of this process alone, without workers.
    """

    images: int
    seconds: float
    cpu_seconds: float

    def minutes_for(self, images: int = VAL_IMAGES) -> float:
        """Wall clock for so many images, in proportion."""
        return self.seconds / self.images * images / 60


def time_evaluators(
    num_images: int,
    image_hw: tuple[int, int] = (375, 500),
    *,
    num_thresholds: int = 33,
    num_workers: int = -1,
    seed: int = 0,
) -> dict[str, MetricTime]:
    """Evaluate drawn predictions with each evaluator in turn.

    An image has eight objects and as many keypoints and parts as people among them; the predictions
    are the labels with noise, 20 detections, and a boundary map of blurred lines and smooth noise,
    whose low thresholds hold half of the image: harder than what a trained network gives.

    Args:
        num_images: images to draw; eight different ones are repeated.
        image_hw: (H, W).
        num_thresholds: of the boundary map.
        num_workers: processes that match boundaries.
        seed: of the random numbers.

    Returns:
        Name of the evaluator -> time; workers are started before the clock.
    """
    random = np.random.default_rng(seed)
    drawn = [drawn_image(random, image_hw) for _ in range(min(8, num_images))]
    pairs = [drawn[i % len(drawn)] for i in range(num_images)]
    records = [{**record, "image_id": i} for i, (record, _) in enumerate(pairs)]
    outputs = [output for _, output in pairs]
    name = "drawn images"
    edges = EdgeEvaluator(
        name, records, num_thresholds=num_thresholds, num_workers=num_workers, distributed=False
    )
    evaluators = {
        "boundary, occlusion": edges,
        "bbox, segm": _coco(name, records, ["bbox", "segm"]),
        "keypoints": _coco(name, records, ["keypoints"]),
        "sem_seg": SemanticEvaluator(name, records, STUFF_CLASSES, distributed=False),
        "part_seg": PartsEvaluator(name, records, PART_CLASSES, distributed=False),
        "image_labels": ClassificationEvaluator(name, records, STUFF_CLASSES, distributed=False),
    }
    # Starting the workers takes as long for ten images as for five thousand.
    edges.process(records[:1], outputs[:1])
    edges.evaluate()
    return {name: _time(evaluator, records, outputs) for name, evaluator in evaluators.items()}


def _coco(name: str, records: Sequence[dict[str, Any]], metrics: list[str]) -> DetailCOCOEvaluator:
    is_pose = metrics == ["keypoints"]
    return DetailCOCOEvaluator(
        name,
        records,
        THING_CLASSES,
        metrics,
        output_dir=None,
        only_class=PERSON if is_pose else None,
        kpt_oks_sigmas=KEYPOINT_OKS_SIGMAS if is_pose else (),
        distributed=False,
    )


def _time(
    evaluator: Any, records: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]
) -> MetricTime:
    evaluator.reset()
    start, cpu = time.perf_counter(), time.process_time()
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([record], [output])
    evaluator.evaluate()
    seconds = time.perf_counter() - start
    return MetricTime(len(records), seconds, time.process_time() - cpu)


def drawn_image(
    random: np.random.Generator, image_hw: tuple[int, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A dataset dict with all eight labels, without its id, and predictions for it.

    Args:
        random: where the random numbers come from.
        image_hw: (H, W).
    """
    height, width = image_hw
    ids = np.zeros(image_hw, dtype=np.uint8)
    for number in range(1, 9):
        center = random.integers(0, (width, height)).tolist()
        axes = random.integers(20, 120, 2).tolist()
        cv2.ellipse(ids, center, axes, float(random.integers(180)), 0, 360, number, -1)
    numbers = [n for n in range(1, 9) if (ids == n).any()]
    classes = {n: PERSON if n % 2 else int(random.integers(20)) for n in numbers}
    masks = {n: mask_util.encode(np.asfortranarray(ids == n, dtype=np.uint8)) for n in numbers}
    edges = np.zeros(image_hw, dtype=bool)
    edges[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edges[:-1] |= ids[1:] != ids[:-1]
    record = {
        "file_name": "drawn.jpg",
        "height": height,
        "width": width,
        "annotations": [_object(masks[n], classes[n], random) for n in numbers],
        "sem_seg_segments": [
            {"category_id": classes[n], "segmentation": masks[n]} for n in numbers
        ],
        "part_seg_segments": [
            {"category_id": 1 + n % 6, "segmentation": masks[n]}
            for n in numbers
            if classes[n] == PERSON
        ],
        "boundary_segmentation": mask_util.encode(np.asfortranarray(edges, dtype=np.uint8)),
        "occlusion_fragments": _fragments(ids, numbers),
        "image_labels": sorted(set(classes.values())),
    }
    return record, _predictions(record, ids, edges, random)


def _object(mask: dict[str, Any], category: int, random: np.random.Generator) -> dict[str, Any]:
    box = mask_util.toBbox(mask)
    points = np.full((NUM_KEYPOINTS, 3), 2.0)
    points[:, :2] = box[:2] + random.random((NUM_KEYPOINTS, 2)) * box[2:]
    return {
        "bbox": box.tolist(),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category,
        "segmentation": mask,
        "iscrowd": 0,
        "keypoints": (points * (category == PERSON)).ravel().tolist(),
    }


def _fragments(ids: np.ndarray, numbers: Sequence[int]) -> dict[str, Any]:
    """Outlines as chains of column-major indices; every object is in front."""
    chains = []
    for number in numbers:
        outlines, _ = cv2.findContours(
            (ids == number).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        chains += [o[:, 0, 0].astype(np.int64) * ids.shape[0] + o[:, 0, 1] for o in outlines]
    return {"indices": chains, "labels": [1] * len(chains)}


def _predictions(
    record: dict[str, Any], ids: np.ndarray, edges: np.ndarray, random: np.random.Generator
) -> dict[str, Any]:
    noise = cv2.GaussianBlur(random.normal(size=ids.shape).astype(np.float32), (0, 0), 4)
    lines = cv2.GaussianBlur(edges.astype(np.float32), (0, 0), 2.5)
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    return {
        "instances": _detections(record, ids, random),
        "sem_seg": torch.randn((len(STUFF_CLASSES), *ids.shape), generator=generator),
        "part_seg": torch.randn((len(PART_CLASSES), *ids.shape), generator=generator),
        "boundary": torch.from_numpy(np.clip(4 * lines + 2.4 * noise, 0, 1)),
        "occlusion": torch.randn((2, *ids.shape), generator=generator),
        "image_labels": torch.rand(len(STUFF_CLASSES), generator=generator),
    }


def _detections(record: dict[str, Any], ids: np.ndarray, random: np.random.Generator) -> Instances:
    """Shifted copies of the objects."""
    objects = record["annotations"]
    chosen = [objects[i % len(objects)] for i in range(_NUM_DETECTIONS)]
    shift = random.normal(scale=3, size=(_NUM_DETECTIONS, 1, 2))
    boxes = np.array([o["bbox"] for o in chosen])
    boxes[:, 2:] += boxes[:, :2]
    points = np.array([o["keypoints"] for o in chosen]).reshape(-1, NUM_KEYPOINTS, 3)
    points[..., :2] += shift
    masks = [
        np.roll(mask_util.decode(o["segmentation"]), s[0].astype(int)[::-1], axis=(0, 1))
        for o, s in zip(chosen, shift, strict=True)
    ]
    instances = Instances(ids.shape)
    instances.pred_boxes = Boxes(boxes + np.tile(shift[:, 0], 2))
    instances.scores = torch.from_numpy(random.random(_NUM_DETECTIONS)).float()
    instances.pred_classes = torch.tensor([o["category_id"] for o in chosen])
    instances.pred_masks = torch.from_numpy(np.stack(masks)) > 0
    instances.pred_keypoints = torch.from_numpy(points).float()
    return instances


def total_minutes(times: dict[str, MetricTime], images: int = VAL_IMAGES) -> float:
    """Minutes for all metrics one after another; NaN if there are none."""
    return sum(time.minutes_for(images) for time in times.values()) if times else math.nan
