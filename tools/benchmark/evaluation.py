"""How long COCO's evaluation takes, by backend, on random people and random predictions."""

from __future__ import annotations

import contextlib
import io
import json
import math
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.structures import Boxes, Instances

from benchmark.timing import CLOCKS, Clock
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.evaluation.coco.backends import AUTO
from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator

PYCOCOTOOLS = "pycocotools"
# Detectron2's own COCOEvaluator, to be compared with.
DETECTRON2 = "detectron2"


class _Seconds(NamedTuple):
    wall: float
    cpu: float

    @classmethod
    def now(cls) -> _Seconds:
        return cls(time.perf_counter(), time.process_time())


METRICS = ("bbox", "keypoints")
_CROWDS = 0.05  # share of the objects
_OKS_SIGMA = 0.08  # of every keypoint


def measure_evaluation(num_images: int = 500, clock: Clock = time.perf_counter) -> dict[str, float]:
    """pycocotools against the backend that ``TEST.COCO_BACKEND: "auto"`` chooses.

    Args:
        num_images: of the dataset.
        clock: see `benchmark.timing.CLOCKS`.

    Returns:
        "pycocotools" and "ours" in seconds, their "ratio", and the "largest difference" between
        their numbers, in points; see `measure_coco_evaluation`.
    """
    measured = measure_coco_evaluation(num_images, backends=(PYCOCOTOOLS, AUTO))
    kind = "cpu_seconds" if clock is CLOCKS["cpu"] else "seconds"
    slow, ours = measured[f"{PYCOCOTOOLS}_{kind}"], measured[f"{AUTO}_{kind}"]
    return {
        "pycocotools": slow,
        "ours": ours,
        "ratio": slow / ours,
        "largest difference": measured["largest_difference"],
    }


def measure_coco_evaluation(
    num_images: int = 3000,
    num_people: int = 8,
    num_detections: int = 20,
    num_keypoints: int = 17,
    *,
    backends: Sequence[str] = (PYCOCOTOOLS, "hotcoco"),
    runs: int = 1,
    seed: int = 0,
) -> dict[str, float]:
    """Time box and keypoint evaluation of random people.

    What is timed is everything that an evaluation adds to a run of the network: making the
    evaluator, which reads the labels, and ``evaluate()``, which writes the predictions and scores
    them. What is done image by image while the network runs (``process``) is left out.

    Args:
        num_images: images.
        num_people: labelled people per image.
        num_detections: predictions an image.
        num_keypoints: keypoints per person.
        backends: what to compare, as in ``TEST.COCO_BACKEND``; ``"detectron2"`` is Detectron2's
            own evaluator. They take turns.
        runs: of each; the median counts.
        seed: of the random numbers.

    Returns:
        ``<backend>_seconds`` of each, ``<backend>_cpu_seconds`` (of all threads; what to look at
        on a busy machine), ``speedup`` and ``cpu_speedup``, the first one's over the last one's,
        and ``largest_difference``, in points, of a result to the first one's.

    Raises:
        ImportError: one of them is not installed.
        ValueError: there is no such backend.
    """
    labels = random_labels(num_images, num_people, num_keypoints, seed)
    seconds: dict[str, list[_Seconds]] = {backend: [] for backend in backends}
    results = []
    with registered(labels) as name:
        records = DatasetCatalog.get(name)
        for _ in range(runs):
            for backend in backends:
                # New ones each time, because Detectron2 shifts the keypoints in place.
                outputs = random_predictions(labels, num_detections, seed)
                with tempfile.TemporaryDirectory() as folder:
                    make = _evaluator_maker(backend, name, records, num_keypoints, folder)
                    result, elapsed = _time_evaluator(make, records, outputs)
                seconds[backend].append(elapsed)
                results.append(result)
    measured: dict[str, float] = {}
    for kind, suffix in (("wall", ""), ("cpu", "cpu_")):
        medians = [
            statistics.median(getattr(run, kind) for run in seconds[backend])
            for backend in backends
        ]
        for backend, median in zip(backends, medians, strict=True):
            measured[f"{backend}_{suffix}seconds"] = median
        measured[f"{suffix}speedup"] = medians[0] / medians[-1]
    return {**measured, "largest_difference": _largest_difference(results)}


def random_labels(
    num_images: int, num_people: int, num_keypoints: int = 17, seed: int = 0
) -> dict[str, Any]:
    """People of all sizes in COCO's format, on images of 480x640 that do not exist.

    Heights are log-uniform between 1/16 of the image's height and 3/4 of it; a third of the
    keypoints is not labelled; one person in twenty is a crowd.

    Args:
        num_images: N.
        num_people: P, people per image.
        num_keypoints: K.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    height, width = 480, 640
    shape = (num_images, num_people)
    h = height / 16 * np.exp(rng.random(shape) * math.log(12))
    wh = np.stack([0.45 * h, h], axis=-1)
    low = rng.random((*shape, 2)) * ([width, height] - wh)
    boxes = np.concatenate([low, wh], axis=-1).round(2)  # (N, P, 4) x, y, w, h
    place = rng.random((*shape, num_keypoints, 2)) * 0.98
    xy = (low[:, :, None] + place * wh[:, :, None]).round()
    visibility = rng.integers(0, 3, (*shape, num_keypoints, 1))
    keypoints = np.where(visibility > 0, np.concatenate([xy, visibility], axis=-1), 0)
    crowds = rng.random(shape) < _CROWDS
    images = [
        {"id": i, "file_name": f"{i}.jpg", "height": height, "width": width}
        for i in range(1, num_images + 1)
    ]
    names = [f"joint_{k}" for k in range(num_keypoints)]
    annotations = [
        {
            "id": i * num_people + p + 1,
            "image_id": image["id"],
            "category_id": 1,
            "bbox": boxes[i, p].tolist(),
            "area": float(0.6 * boxes[i, p, 2] * boxes[i, p, 3]),
            "iscrowd": int(crowds[i, p]),
            "keypoints": keypoints[i, p].reshape(-1).astype(int).tolist(),
            "num_keypoints": int((visibility[i, p] > 0).sum()),
        }
        for i, image in enumerate(images)
        for p in range(num_people)
    ]
    categories = [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}]
    return {"images": images, "categories": categories, "annotations": annotations}


def random_predictions(
    labels: dict[str, Any], num_detections: int, seed: int = 0
) -> list[Instances]:
    """Predictions for labels from `random_labels`: most people, some found twice, all moved.

    Args:
        labels: N images with P people each.
        num_detections: D, predictions an image.
        seed: of the random numbers.

    Returns:
        N instances of D predictions, in continuous pixels, some scores equal.
    """
    generator = torch.Generator().manual_seed(seed)
    num_images = len(labels["images"])
    boxes = torch.tensor([a["bbox"] for a in labels["annotations"]]).view(num_images, -1, 4)
    keypoints = torch.tensor([a["keypoints"] for a in labels["annotations"]]).float()
    keypoints = keypoints.view(num_images, boxes.shape[1], -1, 3)  # (N, P, K, 3)
    shape = (num_images, num_detections)
    rows = torch.arange(num_images)[:, None]
    people = torch.randint(boxes.shape[1], shape, generator=generator)
    boxes, keypoints = boxes[rows, people], keypoints[rows, people]  # (N, D, ...)
    # Some are nearly right, some half, some are not there at all.
    steps = torch.tensor([0.01, 0.1, 1.0])[torch.randint(3, shape, generator=generator)]
    steps = (steps * boxes[..., 3])[..., None]  # (N, D, 1) pixels
    low = boxes[..., :2] + 0.5 * steps * torch.randn((*shape, 2), generator=generator)
    wh = boxes[..., 2:] + 0.5 * steps * torch.randn((*shape, 2), generator=generator)
    xyxy = torch.cat([low, low + wh.clamp(min=1)], dim=-1)
    noise = torch.randn(keypoints[..., :2].shape, generator=generator)
    scores = torch.rand(keypoints[..., 2:].shape, generator=generator)
    found = torch.cat([keypoints[..., :2] + 0.3 * steps[..., None] * noise, scores], dim=-1)
    confidence = torch.rand(shape, generator=generator).mul(1000).round() / 1000
    outputs = []
    for i, image in enumerate(labels["images"]):
        instances = Instances((image["height"], image["width"]))
        instances.pred_boxes = Boxes(xyxy[i])
        instances.scores = confidence[i]
        instances.pred_classes = torch.zeros(num_detections, dtype=torch.long)
        instances.pred_keypoints = found[i]
        outputs.append(instances)
    return outputs


@contextlib.contextmanager
def registered(labels: dict[str, Any]) -> Iterator[str]:
    """A name under which labels in COCO's format are registered, from a file, for a while."""
    name = f"coco_benchmark_{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.json"
        path.write_text(json.dumps(labels), encoding="utf-8")
        register_coco_format(name, str(path), folder)
        try:
            yield name
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def _evaluator_maker(
    backend: str, name: str, records: list[dict[str, Any]], num_keypoints: int, folder: str
) -> Callable[[], DatasetEvaluator]:
    sigmas = [_OKS_SIGMA] * num_keypoints
    if backend == DETECTRON2:
        return lambda: COCOEvaluator(
            name, METRICS, distributed=False, output_dir=folder, kpt_oks_sigmas=sigmas
        )
    return lambda: MultitaskCOCOEvaluator(
        name,
        METRICS,
        output_dir=folder,
        records=records,
        distributed=False,
        kpt_oks_sigmas=sigmas,
        backend=backend,
    )


def _time_evaluator(
    make: Callable[[], DatasetEvaluator],
    records: list[dict[str, Any]],
    outputs: list[Instances],
) -> tuple[dict[str, dict[str, float]], _Seconds]:
    """Results, and the seconds without ``process``."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        start = _Seconds.now()
        evaluator = make()
        evaluator.reset()
        made = _Seconds.now()
        evaluator.process(records, [{"instances": instances} for instances in outputs])
        processed = _Seconds.now()
        results = evaluator.evaluate()
        end = _Seconds.now()
    return results, _Seconds(
        made.wall - start.wall + end.wall - processed.wall,
        made.cpu - start.cpu + end.cpu - processed.cpu,
    )


def _largest_difference(results: list[dict[str, dict[str, float]]]) -> float:
    """Largest difference of a number to the first results'; infinite if one is missing."""
    first = results[0]
    largest = 0.0
    for other in results[1:]:
        for metric, numbers in first.items():
            for key, number in numbers.items():
                found = other.get(metric, {}).get(key, math.inf)
                if not (math.isnan(number) and math.isnan(found)):
                    difference = abs(number - found)
                    largest = max(largest, math.inf if math.isnan(difference) else difference)
    return largest
