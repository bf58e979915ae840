"""A small COCO-format data set, and its labels turned into perfect predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluators
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import Boxes, Instances
from PIL import Image

from d2_multitask.config import get_multitask_cfg

HEIGHT, WIDTH = 60, 80
JOINTS = [f"joint_{i}" for i in range(5)]

Register = Callable[..., str]  # (COCO dict, **options of register_coco_format) -> name


def annotation(number: int, image_id: int, box: list[float], **fields: Any) -> dict[str, Any]:
    """An object whose mask fills its box and whose joints lie on the box's diagonal."""
    x, y, w, h = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
    rle = mask_util.encode(mask)
    steps = np.linspace(0.1, 0.9, len(JOINTS))
    joints = [[int(x + t * w), int(y + t * h), 2] for t in steps]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": box,
        "area": w * h,
        "iscrowd": 0,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        "keypoints": [value for joint in joints for value in joint],
        "num_keypoints": len(JOINTS),
        **fields,
    }


def coco_json(annotations: list[dict[str, Any]], num_images: int = 2) -> dict[str, Any]:
    """COCO's format with one category of five joints."""
    images = [
        {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH}
        for i in range(1, num_images + 1)
    ]
    categories = [{"id": 1, "name": "person", "keypoints": JOINTS, "skeleton": [[1, 2]]}]
    return {"images": images, "categories": categories, "annotations": annotations}


def two_images() -> dict[str, Any]:
    """Two people in image 1, one in image 2."""
    return coco_json(
        [
            annotation(1, 1, [5, 5, 20, 40]),
            annotation(2, 1, [40, 10, 30, 45]),
            annotation(3, 2, [10, 8, 36, 50]),
        ]
    )


def people_cfg(output_dir: Path) -> CfgNode:
    """A config for the dataset's five joints and two semantic classes."""
    cfg = get_multitask_cfg()
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = len(JOINTS)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.08] * len(JOINTS)
    return cfg


def assert_names_known(evaluators: DatasetEvaluators, results: dict[str, Any]) -> None:
    """The evaluators have said which metrics they will give, all but those of old defects."""
    names = {name for part in evaluators._evaluators for name in part.metric_names()}
    assert names == {n for n in flatten_results_dict(results) if "-legacy/" not in n}


def inputs_of(name: str) -> list[dict[str, Any]]:
    """What the mapper gives of each image, without pixels."""
    keys = ("file_name", "image_id", "height", "width")
    return [{key: record[key] for key in keys} for record in DatasetCatalog.get(name)]


def instances(
    boxes: list[list[float]], joints: list[list[float]] | None = None, score: float = 0.9
) -> Instances:
    """Predictions from boxes (x, y, w, h) and joints in COCO's coordinates."""
    result = Instances((HEIGHT, WIDTH))
    xywh = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    result.pred_boxes = Boxes(torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1))
    result.scores = torch.full((len(xywh),), score)
    result.pred_classes = torch.zeros(len(xywh), dtype=torch.long)
    if joints is not None:
        points = torch.tensor(joints, dtype=torch.float32).reshape(len(xywh), len(JOINTS), 3)
        points[..., :2] += 0.5  # Detectron2's continuous coordinates
        result.pred_keypoints = points
    return result


def label_scores(labels: np.ndarray, num_classes: int = 2) -> torch.Tensor:
    """(H, W) ids -> (num_classes, H, W) scores whose maximum they are; 255 becomes class 0."""
    ids = torch.from_numpy(np.where(labels == 255, 0, labels).astype(np.int64))
    return torch.nn.functional.one_hot(ids, num_classes).permute(2, 0, 1).float()


def perfect_outputs(content: dict[str, Any]) -> list[dict[str, Any]]:
    """A model's output that repeats the labels, for every image of a COCO dict."""
    outputs = []
    for image in content["images"]:
        objects = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        people = [a for a in objects if not a.get("iscrowd")]
        sem_seg = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        for person in people:
            sem_seg[mask_util.decode(person["segmentation"]) > 0] = 1
        boxes, joints = [a["bbox"] for a in people], [a["keypoints"] for a in people]
        outputs.append({"instances": instances(boxes, joints), "sem_seg": label_scores(sem_seg)})
    return outputs


def write_map(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(path)
