"""The worst images of a task: each scored when it is evaluated, the worst kept and drawn."""

from __future__ import annotations

import heapq
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from d2_multitask.data.io import read_image
from d2_multitask.data.labels.base import IGNORE_VALUE
from d2_multitask.evaluation.boundary.evaluator import BOUNDARY, OCCLUSION
from d2_multitask.evaluation.dense.classification import voc_average_precision
from d2_multitask.evaluation.dense.sem_seg import count_confusion
from d2_multitask.reports.page import Picture
from d2_multitask.runtime.drawing import draw
from d2_multitask.runtime.model_info import ModelInfo
from d2_multitask.runtime.result import Result
from d2_multitask.visualization.style import blend_color, blend_labels, class_color

NUM_WORST = 20
LONG_SIDE = 320  # of each of the two pictures, pixels
JPEG_QUALITY = 80
GAP = 4

# Record, label map or other label, the network's output -> score in 0-1, prediction to be drawn.
Score = Callable[[Mapping[str, Any], Any, dict[str, Any]], tuple[float, Any]]
# (score, image id, file, label, prediction)
Kept = tuple[float, Any, str, Any, Any]


class WorstImages:
    """An observer of a `LabelEvaluator`: the lowest scores of one task and what they are of.

    Args:
        score: of one image.
    """

    def __init__(self, score: Score) -> None:
        self._score = score
        self.reset()

    def reset(self) -> None:
        """Forget the images of an earlier round."""
        self._heap: list[tuple[float, str, int, Kept]] = []
        self._order = itertools.count()

    def __call__(self, record: dict[str, Any], labels: Any, output: dict[str, Any]) -> None:
        """Keep an image, if it is among the worst so far."""
        score, prediction = self._score(record, labels, output)
        if not np.isfinite(score):
            return
        name = record["file_name"]
        image_id = record.get("image_id", name)
        # Of equal scores the id decides, so that any number of processes keeps the same images.
        place = -score, str(image_id)
        if len(self._heap) == NUM_WORST and place <= self._heap[0][:2]:
            return
        small = (_small_map(x) for x in (_drawn_label(labels), prediction))
        kept = (score, image_id, name, *small)
        push = heapq.heappush if len(self._heap) < NUM_WORST else heapq.heapreplace
        push(self._heap, (*place, next(self._order), kept))

    @property
    def kept(self) -> list[Kept]:
        """The images, in no order."""
        return [kept for *_, kept in self._heap]

    @staticmethod
    def worst(kept: Sequence[Kept]) -> list[Kept]:
        """The worst of several processes' images, worst first."""
        return sorted(kept, key=lambda image: (-image[0], str(image[1])), reverse=True)[:NUM_WORST]


def _mean_iou(labels: np.ndarray, scores: Any) -> tuple[float, np.ndarray]:
    """Over the classes that are labelled in the image."""
    predicted = scores.max(0).indices.cpu().numpy()  # ten times faster than argmax
    num_classes = len(scores)
    labels = np.where(labels == IGNORE_VALUE, np.int64(num_classes), labels)
    counts = count_confusion(predicted, labels, num_classes)[:, :-1]
    labelled, both = counts.sum(0), counts.diagonal()
    occurs = labelled > 0
    union = labelled + counts[:-1].sum(1) - both
    return float((both[occurs] / union[occurs]).mean()) if occurs.any() else np.nan, predicted


def _foreground_iou(labels: np.ndarray, probability: Any) -> tuple[float, np.ndarray]:
    predicted = probability.cpu().numpy() >= 0.5
    valid, positive = labels != IGNORE_VALUE, labels == 1
    union = ((predicted | positive) & valid).sum()
    return float((predicted & positive).sum() / union) if union else 1.0, predicted


def _soft_dice(labels: Mapping[str, np.ndarray], probability: Any) -> tuple[float, Any]:
    if BOUNDARY not in labels:
        return np.nan, None
    predicted = probability.float().cpu().numpy()
    valid, positive = labels[BOUNDARY] != IGNORE_VALUE, labels[BOUNDARY] == 1
    total = (predicted[valid] ** 2).sum() + positive.sum()
    share = float(2 * predicted[positive].sum() / total) if positive.any() else np.nan
    return share, predicted >= 0.5


def _right_directions(labels: Mapping[str, np.ndarray], field: Any) -> tuple[float, Any]:
    if OCCLUSION not in labels:
        return np.nan, None
    field, known = field.float().cpu().numpy(), (labels[OCCLUSION] != 0).any(0)
    right = (field * labels[OCCLUSION]).sum(0) >= 0
    return float(right[known].mean()) if known.any() else np.nan, known & right


def _label_ranking(labels: np.ndarray, scores: Any) -> tuple[float, np.ndarray]:
    scores = scores.float().cpu().numpy()
    return voc_average_precision(scores, labels > 0), scores


# Name of the output -> its score in an image, and what the score is.
SCORES: dict[str, tuple[Callable[[Any, Any], tuple[float, Any]], str]] = {
    "sem_seg": (_mean_iou, "mean IoU of the classes in the image"),
    "part_seg": (_mean_iou, "mean IoU of the parts in the image"),
    "foreground": (_foreground_iou, "IoU"),
    BOUNDARY: (_soft_dice, "Dice coefficient of probability and label"),
    OCCLUSION: (_right_directions, "labelled pixels with the right direction"),
    "image_labels": (_label_ranking, "AP of the image's own ranking of classes"),
}


def score_of(name: str) -> Score:
    """The score of an output of that name in a result dict."""
    function = SCORES[name][0]

    def score(record: Mapping[str, Any], labels: Any, output: dict[str, Any]) -> tuple[float, Any]:
        prediction = output[name]
        if f"{name}_hidden" in record:  # classes that are background in these labels
            prediction = without_hidden(prediction, record[f"{name}_hidden"])
        return function(labels, prediction)

    return score


def without_hidden(scores: Tensor, hidden: Sequence[bool]) -> Tensor:
    """Scores (C, H, W) in which the background has the best one of the classes that are hidden."""
    hidden = torch.as_tensor(hidden, device=scores.device)
    joined = scores.clone()
    joined[0] = torch.maximum(scores[0], scores[hidden].amax(0)) if hidden.any() else scores[0]
    joined[hidden] = -torch.inf
    return joined


def _drawn_label(labels: Any) -> Any:
    if not isinstance(labels, dict):
        return labels
    if BOUNDARY in labels:
        return labels[BOUNDARY]
    return (labels[OCCLUSION] != 0).any(0)


def _small_map(values: Any) -> Any:
    """A map (H, W) of ids or bools at the size at which it is drawn; others as they are."""
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        return values
    values = values.astype(np.uint8)
    image = Image.fromarray(values)
    return np.asarray(image.resize(_small_size(values.shape), Image.Resampling.NEAREST))


def _small_size(shape: Sequence[int]) -> tuple[int, int]:
    """(w, h)."""
    zoom = min(LONG_SIDE / max(shape[:2]), 1)
    return max(round(shape[1] * zoom), 1), max(round(shape[0] * zoom), 1)


def map_picture(kept: Kept, measure: str, class_names: Sequence[str]) -> Picture:
    """Label (left) and prediction of a dense task, or the names of an image's classes.

    Args:
        kept: of `WorstImages`.
        measure: what the score is.
        class_names: of the map, or of the image's classes.
    """
    score, image_id, file_name, label, prediction = kept
    image = _small_image(file_name)
    caption = f"{image_id}: {measure} {100 * score:.0f}"
    if label.ndim == 1:
        best = np.argsort(-prediction, kind="stable")[:5]
        present = [class_names[k] for k in np.flatnonzero(label > 0)]
        guesses = [f"{class_names[k]} {prediction[k]:.2f}" for k in best]
        text = f"{caption}; labelled {', '.join(present)}; predicted {', '.join(guesses)}"
        return Picture(_jpeg(image), text)
    if class_names:
        first = int(class_names[0] == "background")
        pictures = [
            blend_labels(image, ids, lambda k: class_color(k - first), first=first)
            for ids in (label, prediction)
        ]
    else:
        pictures = [blend_color(image, x == 1, class_color(0)) for x in (label, prediction)]
    return Picture(_side_by_side(pictures), caption)


def object_picture(
    file_name: str, truth: Result, found: Result, caption: str, metric: str
) -> Picture:
    """Labelled objects (left) and predicted ones of an image.

    Args:
        file_name: of the image.
        truth: the labels as a result; each score is 1.
        found: of the network, whole.
        caption: what is wrong.
        metric: "bbox", "segm" or "keypoints": without the last no skeletons are drawn.
    """
    image = _small_image(file_name)
    size = image.shape[:2]
    pictures = []
    for result in (truth, found):
        scale = np.array(size[::-1]) / result.image_size[::-1]
        points = result.keypoints
        if points is not None:
            points = points * [*scale, 1] if metric == "keypoints" else None
        small = replace(
            result, image_size=size, boxes=result.boxes * np.tile(scale, 2), keypoints=points
        )
        drawn = draw(image[:, :, ::-1], small, min_long_side=LONG_SIDE)
        pictures.append(drawn[:, :, ::-1])
    return Picture(_side_by_side(pictures), caption)


def objects_as_result(
    entries: Sequence[Mapping[str, Any]],
    size: tuple[int, int],
    info: ModelInfo,
    classes: Mapping[Any, int],
) -> Result:
    """COCO's annotations or results of one image.

    Args:
        entries: without crowds.
        size: (h, w).
        info: of the network, for names and skeleton.
        classes: category id -> class number of ``info``.
    """
    boxes = np.array([e["bbox"] for e in entries], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    keypoints = None
    if any(e.get("keypoints") for e in entries) and info.objects.keypoint_names:
        shape = (len(entries), -1, 3)
        keypoints = np.array([e["keypoints"] for e in entries], np.float32).reshape(shape)
        keypoints = keypoints + np.array([0.5, 0.5, 0], np.float32)  # pixel indices -> continuous
    return Result(
        size,
        info,
        boxes=boxes,
        scores=np.array([e.get("score", 1) for e in entries], np.float32),
        classes=np.array([classes[e["category_id"]] for e in entries], np.int64),
        keypoints=keypoints,
    )


def _small_image(file_name: str) -> np.ndarray:
    """(h, w, 3) uint8 RGB, as it is drawn."""
    image = Image.fromarray(np.ascontiguousarray(read_image(file_name, "RGB")))
    return np.asarray(image.resize(_small_size((image.height, image.width))))


def _side_by_side(pictures: Sequence[np.ndarray]) -> bytes:
    first, second = pictures
    gap = np.full((len(first), GAP, 3), 255, np.uint8)
    return _jpeg(np.concatenate([first, gap, second], 1))


def _jpeg(image: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue()
