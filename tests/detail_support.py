"""PASCAL in Detail's dataset dicts made of rectangles, and model outputs that repeat them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from scipy.ndimage import distance_transform_edt

from d2_multitask.data.labels.edges import BoundaryLabel, OcclusionLabel
from d2_multitask.data.labels.sem_seg import ImageLabels, PartSegLabel, SemSegLabel

HEIGHT, WIDTH = 60, 80
PERSON, CHAIR, GRASS, SKY = 14, 8, 35, 49
NUM_CLASSES, NUM_PARTS, NUM_KEYPOINTS = 59, 7, 14

# The number of each metric that papers give.
MAIN = {
    "bbox": "AP",
    "segm": "AP",
    "keypoints": "AP",
    "sem_seg": "mIoU",
    "part_seg": "mIoU",
    "image_labels": "mAP",
    "boundary": "ODS-F",
    "occlusion": "orientation-accuracy",
}

Box = tuple[int, int, int, int]  # x, y, w, h


def rectangle(box: Box) -> np.ndarray:
    x, y, w, h = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def to_rle(mask: np.ndarray) -> dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def outline(box: Box) -> np.ndarray:
    x, y, w, h = box
    return rectangle(box) - rectangle((x + 1, y + 1, w - 2, h - 2))


def joints(box: Box) -> list[float]:
    """All keypoints on the diagonal, visible, in Detectron2's coordinates."""
    x, y, w, h = box
    steps = np.linspace(0.1, 0.9, NUM_KEYPOINTS)
    return [float(v) for t in steps for v in (x + t * w, y + t * h, 2)]


def left_side(box: Box) -> list[int]:
    """Column-major indices of a box's left side, walking down."""
    x, y, _, h = box
    return [x * HEIGHT + row for row in range(y, y + h)]


def detail_record(
    image_id: int, things: list[tuple[int, Box]], stuff: list[tuple[int, Box]]
) -> dict[str, Any]:
    """All eight labels; each thing hides what is left of it."""
    annotations = [
        {
            "bbox": [float(v) for v in box],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": category,
            "segmentation": to_rle(rectangle(box)),
            "iscrowd": 0,
            "keypoints": joints(box) if category == PERSON else [0.0] * 3 * NUM_KEYPOINTS,
        }
        for category, box in things
    ]
    segments = [
        {"category_id": c, "segmentation": to_rle(rectangle(b))} for c, b in [*stuff, *things]
    ]
    record = {
        "file_name": f"{image_id}.jpg",
        "image_id": image_id,
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": annotations,
        "sem_seg_segments": segments,
        # Walking down, the object in front is on the left of travel: at larger x.
        "occlusion_fragments": {
            "indices": [left_side(b) for _, b in things],
            "labels": [1] * len(things),
        },
        "image_labels": sorted({c for c, _ in [*things, *stuff]}),
    }
    if things:
        edges = np.maximum.reduce([outline(box) for _, box in things])
        record["boundary_segmentation"] = to_rle(edges)
    people = [box for category, box in things if category == PERSON]
    if people:
        record["part_seg_segments"] = [
            {"category_id": part, "segmentation": to_rle(rectangle((x, y + shift, w, h // 3)))}
            for x, y, w, h in people
            for part, shift in ((1, 0), (2, h // 3), (6, 2 * (h // 3)))
        ]
    return record


def three_images() -> list[dict[str, Any]]:
    """Two people in image 1, a person and a chair in image 2, a chair alone in image 3."""
    return [
        detail_record(
            1,
            [(PERSON, (5, 6, 20, 42)), (PERSON, (40, 10, 30, 45))],
            [(GRASS, (0, 40, 80, 20))],
        ),
        detail_record(2, [(PERSON, (12, 9, 33, 48)), (CHAIR, (50, 30, 24, 21))], []),
        detail_record(3, [(CHAIR, (20, 8, 40, 36))], [(SKY, (0, 0, 80, 30))]),
    ]


def inputs_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: r[k] for k in ("file_name", "image_id", "height", "width")} for r in records]


def one_hot(labels: np.ndarray, num_classes: int) -> torch.Tensor:
    ids = torch.from_numpy(np.where(labels == 255, 0, labels).astype(np.int64))
    return torch.nn.functional.one_hot(ids, num_classes).permute(2, 0, 1).float()


def detail_instances(record: dict[str, Any]) -> Instances:
    result = Instances((HEIGHT, WIDTH))
    labels = record["annotations"]
    xywh = torch.tensor([a["bbox"] for a in labels]).reshape(-1, 4)
    result.pred_boxes = Boxes(torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1))
    result.scores = torch.full((len(labels),), 0.9)
    result.pred_classes = torch.tensor([a["category_id"] for a in labels], dtype=torch.long)
    masks = [mask_util.decode(a["segmentation"]) for a in labels]
    result.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, HEIGHT, WIDTH)) > 0
    points = [a["keypoints"] for a in labels]
    result.pred_keypoints = torch.tensor(points).reshape(-1, NUM_KEYPOINTS, 3)
    return result


def extended(field: np.ndarray) -> np.ndarray:
    """(2, H, W) with the nearest vector where there is none, as a network answers everywhere."""
    there = (field != 0).any(axis=0)
    if not there.any():
        return field
    rows, columns = distance_transform_edt(~there, return_distances=False, return_indices=True)
    return field[:, rows, columns]


def perfect_output(record: dict[str, Any]) -> dict[str, Any]:
    """The labels themselves, as a model would answer."""
    parts = PartSegLabel().read(record)
    nothing = np.zeros((HEIGHT, WIDTH), np.uint8)
    boundary = BoundaryLabel().read(record)
    return {
        "instances": detail_instances(record),
        "sem_seg": one_hot(SemSegLabel().read(record), NUM_CLASSES),
        "part_seg": one_hot(nothing if parts is None else parts, NUM_PARTS),
        "boundary": torch.from_numpy((nothing if boundary is None else boundary) == 1).float(),
        "occlusion": torch.from_numpy(extended(OcclusionLabel().read(record))),
        "image_labels": torch.from_numpy(ImageLabels().read(record)).float(),
    }


def random_output(generator: torch.Generator, num_boxes: int = 20) -> dict[str, Any]:
    """Answers that know nothing of the image."""
    rand = lambda *shape: torch.rand(shape, generator=generator)  # noqa: E731
    corner, size = rand(num_boxes, 2) * 40, 5 + rand(num_boxes, 2) * 20
    result = Instances((HEIGHT, WIDTH))
    result.pred_boxes = Boxes(torch.cat([corner, corner + size], dim=1))
    result.scores = rand(num_boxes)
    result.pred_classes = torch.randint(0, 20, (num_boxes,), generator=generator)
    result.pred_masks = rand(num_boxes, HEIGHT, WIDTH) > 0.5
    result.pred_keypoints = rand(num_boxes, NUM_KEYPOINTS, 3) * 60
    return {
        "instances": result,
        "sem_seg": rand(NUM_CLASSES, HEIGHT, WIDTH),
        "part_seg": rand(NUM_PARTS, HEIGHT, WIDTH),
        "boundary": rand(HEIGHT, WIDTH),
        "occlusion": rand(2, HEIGHT, WIDTH) - 0.5,
        "image_labels": rand(NUM_CLASSES),
    }
