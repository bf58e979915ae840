"""The numbers of PASCAL in Detail's official evaluation code (detail-api 4.0), with its defects.

They are for comparison with published numbers only (``TEST.PASCAL_IN_DETAIL.LEGACY``).

Letters: T = 10 thresholds of overlap .50:.05:.95, R = 101 recalls, K classes, M limits on the
number of detections. The ``legacy_*`` functions return 0-100, all others 0-1.

Differences from COCO's metric:

- boxes: two boxes that are apart in both directions get a positive "intersection", the product of
  two negative lengths; no area ranges, no limit of 100 detections in the main number;
- masks: all 59 classes, the 39 without instances as one instance each; of objects of one class the
  later ones hide the earlier; also no area ranges;
- keypoints: the sigma is 0.5 for every keypoint, the area is that of the box, the first skeleton of
  the dataset can never be found (its id 0 reads as "not matched"), and images without a person's
  mask are not counted.

Differences from VOC's metric of image labels: see `official_mean_ap`.

One defect cannot be imitated: the official mask code reads its table of overlaps transposed, and
stops with an error where an image has more labelled than predicted masks of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
NUM_CLASSES, NUM_THINGS = 59, 20
# sigma 0.5, and the variance is (2 sigma)^2.
KEYPOINT_VARIANCE = 1.0
MAX_SKELETONS = 20

Overlap = Callable[[Sequence[Any], Sequence[Any]], np.ndarray]
Objects = Mapping[tuple[Any, int], Sequence[Any]]
Detections = Mapping[tuple[Any, int], Sequence[tuple[Any, float]]]


class OfficialResult(NamedTuple):
    """Attributes:
    ap: (T, K, M), -1 for classes of which there is neither a label nor a prediction.
    recall: (T, K, M), likewise.
    """

    ap: np.ndarray
    recall: np.ndarray


def official_detection(
    labels: Objects,
    detections: Detections,
    overlap: Overlap,
    num_classes: int,
    max_detections: Sequence[int | None] = (1, 10, 100, None),
) -> OfficialResult:
    """``bboxEval`` and ``instsegEval``.

    Args:
        labels: (image, class) -> objects.
        detections: (image, class) -> pairs (object, score).
        overlap: (labelled objects, detected objects) -> (G, D).
        num_classes: K.
        max_detections: M limits per image and class; ``None`` = no limit.
    """
    shape = (len(THRESHOLDS), num_classes, len(max_detections))
    ap, recall = -np.ones(shape), -np.ones(shape)
    images: dict[int, list[Any]] = {}
    for image, category in dict.fromkeys([*labels, *detections]):
        images.setdefault(category, []).append(image)
    for category, names in images.items():
        matches = [_match_image(labels, detections, overlap, (i, category)) for i in names]
        num_labels = sum(len(labels.get((i, category), ())) for i in names)
        for m, limit in enumerate(max_detections):
            found = _by_score([(scores[:limit], hit[:, :limit]) for scores, hit in matches])
            ap[:, category, m] = [precision_at_recalls(f, num_labels).mean() for f in found]
            recall[:, category, m] = found.sum(axis=1) / num_labels if num_labels else np.nan
    return OfficialResult(ap, recall)


def _match_image(
    labels: Objects, detections: Detections, overlap: Overlap, key: tuple[Any, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(D,) scores, best first, and (T, D) whether each detection found an object."""
    objects, found = labels.get(key, ()), detections.get(key, ())
    scores = np.array([score for _, score in found], dtype=float)
    order = np.argsort(-scores, kind="mergesort")
    if not objects or not found:
        return scores[order], np.zeros((len(THRESHOLDS), len(found)), dtype=bool)
    table = overlap(objects, [found[i][0] for i in order])
    return scores[order], _greedy_matches(table.T) >= 0


def _greedy_matches(overlaps: np.ndarray) -> np.ndarray:
    """(D, G) overlaps, best detection first -> (T, D) number of the matched label, -1 for none."""
    matches = np.full((len(THRESHOLDS), len(overlaps)), -1)
    for row, threshold in zip(matches, THRESHOLDS, strict=True):
        free = np.ones(overlaps.shape[1], dtype=bool)
        for d, values in enumerate(np.asarray(overlaps)):
            values = np.where(free, values, -1)
            best = len(values) - 1 - int(values[::-1].argmax())  # the last of equal ones
            if values[best] >= min(threshold, 1 - 1e-10):
                free[best], row[d] = False, best
    return matches


def _by_score(matches: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(T, D) of all images, best score first."""
    if not matches:
        return np.zeros((len(THRESHOLDS), 0), dtype=bool)
    order = np.argsort(-np.concatenate([scores for scores, _ in matches]), kind="mergesort")
    return np.concatenate([hit for _, hit in matches], axis=1)[:, order]


def precision_at_recalls(found: np.ndarray, num_labels: int) -> np.ndarray:
    """(R,) interpolated precision.

    Args:
        found: (D,) bool, best score first.
        num_labels: labelled objects.
    """
    right, wrong = np.cumsum(found), np.cumsum(~found)
    if not num_labels or not len(found):
        return np.zeros(len(RECALLS))
    precision = right / (right + wrong + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(right / num_labels, RECALLS, side="left")
    return np.append(precision, 0.0)[place]


def official_box_overlap(
    labels: Sequence[Sequence[float]], found: Sequence[Sequence[float]]
) -> np.ndarray:
    """(G, D) overlap of boxes (x, y, w, h), clipped at 0 only after the product."""
    a = np.asarray(labels, dtype=float).reshape(-1, 1, 4)
    b = np.asarray(found, dtype=float).reshape(1, -1, 4)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    intersection = np.maximum((high - low).prod(axis=-1), 0)
    union = a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - intersection
    return intersection / union


def official_objectness(labels: Objects, detections: Detections) -> OfficialResult:
    """``bboxEval`` with ``useCat = False``: one class, and also a limit of 1000 detections."""

    def merged(groups: Mapping[tuple[Any, int], Sequence[Any]]) -> dict[tuple[Any, int], list[Any]]:
        return _grouped((image, 0, v) for (image, _), values in groups.items() for v in values)

    limits = (1, 10, 100, 1000, None)
    return official_detection(merged(labels), merged(detections), official_box_overlap, 1, limits)


def legacy_boxes(
    records: Sequence[dict[str, Any]], predictions: Mapping[Any, Sequence[dict[str, Any]]]
) -> dict[str, float]:
    """Official box AP over the classes with objects, and recall without classes, in 0-100.

    Args:
        records: the dataset's dicts with ``annotations``.
        predictions: image id -> COCO results with ``category_id`` from 0 on.
    """
    labels = _grouped(
        (r["image_id"], a["category_id"], a["bbox"]) for r in records for a in r["annotations"]
    )
    detections = _detections(predictions, "bbox")
    num_classes = 1 + max((c for _, c in [*labels, *detections]), default=0)
    result = official_detection(labels, detections, official_box_overlap, num_classes)
    recall = official_objectness(labels, detections).recall
    return {
        **_summary(result.ap[:, :, -1], sorted({c for _, c in labels})),
        "objectness-recall50": 100 * float(recall[0, 0, -1]),
        "objectness-recall95": 100 * float(recall[-1, 0, -1]),
    }


def legacy_masks(
    records: Sequence[dict[str, Any]], predictions: Mapping[Any, Sequence[dict[str, Any]]]
) -> dict[str, float]:
    """Official mask AP over those of the 59 classes that occur, in 0-100.

    ``AP`` counts the classes without instances, of which a network for instances predicts none;
    ``AP-things`` is over the classes with instances.

    Args:
        records: the dataset's dicts with ``annotations`` and ``sem_seg_segments``.
        predictions: image id -> COCO results with ``category_id`` from 0 on, ``segmentation``.
    """
    labels = _grouped(item for r in records for item in _painted_masks(r))
    detections = _detections(predictions, "segmentation")
    result = official_detection(labels, detections, _mask_overlap, NUM_CLASSES)
    ap, occur = result.ap[:, :, -1], sorted({c for _, c in labels})
    of_things = [c for c in occur if c < NUM_THINGS]
    return {**_summary(ap, occur), "AP-things": _summary(ap, of_things)["AP"]}


def _painted_masks(record: dict[str, Any]) -> list[tuple[Any, int, Any]]:
    """(image, class, mask) of what is visible when later objects of a class hide earlier ones."""
    items = []
    covered: dict[int, np.ndarray] = {}
    for label in reversed(record["annotations"]):
        mask = mask_util.decode(label["segmentation"])
        above = covered.setdefault(label["category_id"], np.zeros_like(mask))
        visible = mask & (1 - above)
        above |= mask
        if visible.any():
            rle = mask_util.encode(np.asfortranarray(visible))
            items.append((record["image_id"], label["category_id"], rle))
    items.reverse()
    stuff = [s for s in record.get("sem_seg_segments", ()) if s["category_id"] >= NUM_THINGS]
    return items + [(record["image_id"], s["category_id"], s["segmentation"]) for s in stuff]


def _mask_overlap(labels: Sequence[Any], found: Sequence[Any]) -> np.ndarray:
    overlaps = mask_util.iou(list(found), list(labels), [0] * len(labels))
    return np.asarray(overlaps).reshape(len(found), len(labels)).T


def _detections(
    predictions: Mapping[Any, Sequence[dict[str, Any]]], field: str
) -> dict[tuple[Any, int], list[Any]]:
    return _grouped(
        (image, p["category_id"], (p[field], p["score"]))
        for image, results in predictions.items()
        for p in results
    )


def _grouped(items: Iterable[tuple[Any, int, Any]]) -> dict[tuple[Any, int], list[Any]]:
    groups: dict[tuple[Any, int], list[Any]] = {}
    for image, category, value in items:
        groups.setdefault((image, category), []).append(value)
    return groups


def _summary(ap: np.ndarray, classes: Sequence[int]) -> dict[str, float]:
    """From (T, K), over the classes of which there are labels."""
    mean = 100 * ap[:, list(classes)].mean(axis=1) if classes else np.full(len(ap), np.nan)
    names = {"AP50": mean[0], "AP75": mean[5], "AP95": mean[9]}
    return {"AP": float(mean.mean()), **{name: float(value) for name, value in names.items()}}


def official_keypoint_similarity(
    labels: np.ndarray, boxes: np.ndarray, found: np.ndarray
) -> np.ndarray:
    """(D, G) similarity of skeletons with one variance for all keypoints.

    Args:
        labels: (G, J, 3) x, y, visibility, some of it above 0.
        boxes: (G, 4) x, y, w, h.
        found: (D, J, 2).
    """
    squared = ((found[:, None] - labels[None, :, :, :2]) ** 2).sum(axis=-1)  # (D, G, J)
    area = boxes[:, 2] * boxes[:, 3] + np.spacing(1)
    similarity = np.exp(-squared / KEYPOINT_VARIANCE / area[None, :, None] / 2)
    labelled = labels[..., 2] > 0
    return (similarity * labelled).sum(axis=-1) / labelled.sum(axis=-1)


def legacy_keypoints(
    annotations: Sequence[dict[str, Any]], predictions: Mapping[Any, Sequence[dict[str, Any]]]
) -> dict[str, float]:
    """Official keypoint AP, in 0-100.

    Args:
        annotations: people in COCO's format, in the order of the dataset.
        predictions: image id -> COCO results of people, with ``keypoints``.
    """
    with_mask = {a["image_id"] for a in annotations if "segmentation" in a}
    counted = [a for a in annotations if a["image_id"] in with_mask and a["num_keypoints"]]
    people: dict[Any, list[tuple[int, dict[str, Any]]]] = {
        a["image_id"]: [] for a in annotations if a["image_id"] in with_mask
    }
    for number, person in enumerate(counted):
        people[person["image_id"]].append((number, person))
    found = _by_score([_match_skeletons(p, predictions.get(i, ())) for i, p in people.items()])
    ap = [precision_at_recalls(f, len(counted)).mean() for f in found]
    return _summary(np.array(ap)[:, None], [0] if counted else [])


def _match_skeletons(
    people: Sequence[tuple[int, dict[str, Any]]], results: Sequence[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """(D,) scores, best first, and (T, D) whether each detection counts as right."""
    scores = np.array([r["score"] for r in results], dtype=float)
    order = np.argsort(-scores, kind="mergesort")[:MAX_SKELETONS]
    if not people or not len(order):
        return scores[order], np.zeros((len(THRESHOLDS), len(order)), dtype=bool)
    labels = np.array([p["keypoints"] for _, p in people], dtype=float)
    boxes = np.array([p["bbox"] for _, p in people], dtype=float)
    found = np.array([results[i]["keypoints"] for i in order], dtype=float)
    table = official_keypoint_similarity(
        labels.reshape(len(people), -1, 3), boxes, found.reshape(len(order), -1, 3)[..., :2]
    )
    matches = _greedy_matches(table)
    # The official code keeps the id of the match, and 0 is the first person's.
    numbers = np.array([number for number, _ in people])
    return scores[order], (matches >= 0) & (numbers[matches] != 0)


def official_mean_ap(scores: np.ndarray, present: np.ndarray) -> float:
    """Mean AP of image labels as ``DetailEvalCls`` computes it.

    Differences from VOC's: images with equal scores are counted one by one, in the order of the
    dataset (the official order among them is whatever NumPy's quicksort leaves), and a class that
    no image shows has AP 0.

    Args:
        scores: (N, C).
        present: (N, C) bool.
    """
    num_images, num_classes = scores.shape
    total = 0.0
    for score, shown in zip(scores.T, present.T, strict=True):
        if not shown.any():
            continue
        hits = np.cumsum(shown[np.argsort(-score, kind="stable")])
        precision = hits / np.arange(1, num_images + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        total += float((np.diff(hits, prepend=0) * envelope).sum() / shown.sum())
    return total / num_classes
