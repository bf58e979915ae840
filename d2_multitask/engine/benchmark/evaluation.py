"""Time of COCO's metrics through our evaluator, against pycocotools on the same predictions."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_multitask.data.catalog import load_dataset
from d2_multitask.data.coco_format import register_coco_format
from d2_multitask.engine.benchmark.networks import Batch
from d2_multitask.engine.benchmark.people import random_people
from d2_multitask.engine.benchmark.timing import Clock, time_once
from d2_multitask.evaluation.coco import MultitaskCOCOEvaluator
from d2_multitask.evaluation.ground_truth import coco_ground_truth

METRICS = ("bbox", "keypoints")
SIZE = (480, 640)
SEEDS_APART = 1000


def measure_evaluation(
    folder: Path, num_images: int = 500, people: int = 4, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Box and keypoint AP of drawn-by-lot predictions: time and results of both ways.

    Args:
        folder: for the annotation file.
        num_images: of the data set.
        people: labelled in each image; three times as many are predicted, some of them well.
        clock: see `d2_multitask.engine.benchmark.timing.CLOCKS`.

    Returns:
        "pycocotools" and "ours" in seconds, their "ratio", and the "largest difference" between
        the metrics of the two.
    """
    truth = random_people(num_images, people, SIZE)
    outputs = [_prediction(entry["instances"], seed) for seed, entry in enumerate(truth)]
    inputs = [{"image_id": i + 1, "file_name": f"{i + 1}.png"} for i in range(num_images)]
    results: dict[str, dict[str, float]] = {}
    reference: dict[str, list[float]] = {}
    with _registered(folder, truth) as name, contextlib.redirect_stdout(io.StringIO()):
        labels = coco_ground_truth(name, load_dataset(name))
        evaluator = MultitaskCOCOEvaluator(name, METRICS, output_dir=None, distributed=False)
        evaluator.reset()
        evaluator.process(inputs, [{"instances": output} for output in outputs])
        ours = time_once(lambda: results.update(evaluator.evaluate()), clock)
    predictions = [
        {**entry, "category_id": entry["category_id"] + 1}
        for image, output in zip(inputs, outputs, strict=True)
        for entry in instances_to_coco_json(output, image["image_id"])
    ]
    slow = time_once(lambda: reference.update(_pycocotools(labels, predictions)), clock)
    return {
        "pycocotools": slow,
        "ours": ours,
        "ratio": slow / ours,
        "largest difference": max(
            abs(results[metric][key] - 100 * reference[metric][index])
            for metric in METRICS
            for index, key in enumerate(("AP", "AP50", "AP75"))
        ),
    }


def _pycocotools(
    labels: dict[str, Any], predictions: list[dict[str, Any]]
) -> dict[str, list[float]]:
    """Summaries of pycocotools itself, quietly: reading predictions, matching, accumulating."""
    summaries = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = labels
        truth.createIndex()
        for metric in METRICS:
            # As Detectron2 does: without boxes, areas are those of the joints. loadRes adds fields.
            unused = "bbox" if metric == "keypoints" else "keypoints"
            found = truth.loadRes(
                [{k: v for k, v in p.items() if k != unused} for p in predictions]
            )
            evaluation = COCOeval(truth, found, metric)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            summaries[metric] = [float(value) for value in evaluation.stats]
    return summaries


def _prediction(truth: Instances, seed: int) -> Instances:
    """The labelled people, displaced, and twice as many that are not there."""
    generator = torch.Generator().manual_seed(SEEDS_APART + seed)
    boxes = truth.gt_boxes.tensor.repeat(3, 1)
    joints = truth.gt_keypoints.tensor.repeat(3, 1, 1)
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    worse = torch.arange(3).repeat_interleave(len(truth))[:, None] * 0.4 + 0.05
    boxes = boxes + torch.randn(boxes.shape, generator=generator) * size * worse
    boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], 1)
    moved = torch.randn(joints[..., :2].shape, generator=generator) * worse[:, None] / 4
    joints = joints.clone()
    joints[..., :2] += moved * size[:, None, :2]
    result = Instances(truth.image_size)
    result.pred_boxes = Boxes(boxes)
    result.scores = torch.rand(len(boxes), generator=generator)
    result.pred_classes = torch.zeros(len(boxes), dtype=torch.long)
    result.pred_keypoints = joints
    return result


@contextlib.contextmanager
def _registered(folder: Path, truth: Batch) -> Iterator[str]:
    """The labels as a COCO file and a registered data set."""
    folder.mkdir(parents=True, exist_ok=True)
    json_file = folder / "evaluation.json"
    json_file.write_text(json.dumps(_coco_content(truth)))
    name = "benchmark_evaluation"
    register_coco_format(name, str(json_file), str(folder))
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _coco_content(truth: Batch) -> dict[str, Any]:
    height, width = SIZE
    images, annotations = [], []
    for index, entry in enumerate(truth, start=1):
        images.append({"id": index, "file_name": f"{index}.png", "height": height, "width": width})
        people = entry["instances"]
        joints_inside = people.gt_keypoints.tensor.clone()
        joints_inside[..., :2] = joints_inside[..., :2].minimum(torch.tensor([width, height]) - 1.0)
        for box, joints in zip(
            people.gt_boxes.tensor.tolist(), joints_inside.tolist(), strict=True
        ):
            w, h = box[2] - box[0], box[3] - box[1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": 1,
                    "bbox": [box[0], box[1], w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "keypoints": [value for joint in joints for value in joint],
                    "num_keypoints": len(joints),
                }
            )
    category = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON_KEYPOINT_NAMES)}
    category["skeleton"] = []
    return {"images": images, "annotations": annotations, "categories": [category]}
