"""On real annotations, with crowds and people without joints, COCO's own tool gives the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from support import needs_real_data, real_data


def noisy_people(labels: COCO) -> list[dict]:
    """Predictions in COCO's format: most people, moved a little, and some that are not there."""
    rng = np.random.default_rng(0)
    rows = []
    for number in sorted(labels.anns):
        ann = labels.anns[number]
        if rng.random() < 0.2:
            continue
        box = np.array(ann["bbox"]) + rng.normal(0, 3, 4)
        joints = np.array(ann["keypoints"], dtype=float).reshape(-1, 3)
        joints[:, :2] += rng.normal(0, 3, joints[:, :2].shape)
        joints[:, 2] = rng.random(len(joints))
        rows.append(
            {
                "image_id": ann["image_id"],
                "category_id": 1,
                "bbox": np.maximum(box, [0, 0, 2, 2]).tolist(),
                "score": float(rng.random()),
                "keypoints": joints.reshape(-1).tolist(),
            }
        )
    return rows


def as_instances(rows: list[dict], size: tuple[int, int]) -> Instances:
    result = Instances(size)
    boxes = torch.tensor([row["bbox"] for row in rows]).reshape(-1, 4)
    result.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    result.scores = torch.tensor([row["score"] for row in rows])
    result.pred_classes = torch.zeros(len(rows), dtype=torch.long)
    joints = torch.tensor([row["keypoints"] for row in rows]).reshape(len(rows), 17, 3)
    joints[:, :, :2] += 0.5
    result.pred_keypoints = joints
    return result


@needs_real_data
@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_people(split, tmp_path):
    folder = real_data() / "coco_people"
    json_file = folder / f"person_keypoints_{split}.json"
    labels = COCO(str(json_file))
    rows = noisy_people(labels)
    name = f"real_data_test_{split}"
    register_coco_format(name, str(json_file), str(folder / "images"))
    try:
        evaluator = MultitaskCOCOEvaluator(name, output_dir=str(tmp_path))
        evaluator.reset()
        for record in DatasetCatalog.get(name):
            found = [row for row in rows if row["image_id"] == record["image_id"]]
            size = record["height"], record["width"]
            evaluator.process([record], [{"instances": as_instances(found, size)}])
        results = evaluator.evaluate()
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for metric in ("bbox", "keypoints"):
        golden = COCOeval(labels, labels.loadRes(json.loads(json.dumps(rows))), metric)
        golden.evaluate()
        golden.accumulate()
        golden.summarize()
        assert 10 < 100 * golden.stats[0] < 90
        assert list(results[metric].values()) == pytest.approx(
            [100 * x for x in golden.stats[: len(results[metric])]], abs=0.05
        )
