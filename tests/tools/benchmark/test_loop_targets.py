"""Our targets equal those of the customary loop."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import ImageList

from benchmark import loop_targets, random_people
from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, build_heads
from support import TinyBackbone


def test_random_people_lie_in_their_image() -> None:
    for entry in random_people(2, 5, (64, 96), num_keypoints=3):
        boxes = entry["instances"].gt_boxes.tensor
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 96).all() and (boxes[:, 3] <= 64).all()
        joints = entry["instances"].gt_keypoints.tensor
        assert joints.shape == (5, 3, 3) and (joints[..., 2] == 2).all()


def test_our_targets_equal_the_loops() -> None:
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = ["det", "pose"]
    heads = build_heads(cfg, TinyBackbone().output_shape())
    batch = random_people(3, 6, (128, 96), seed=5)
    images = ImageList.from_tensors([x["image"].float() for x in batch])
    loop = loop_targets(batch)
    targets = {name: head.targets(BatchLabels(batch, images)) for name, head in heads.items()}
    np.testing.assert_allclose(targets["center"]["heatmap"].numpy(), loop["heatmap"], atol=1e-6)
    np.testing.assert_allclose(
        targets["pose"]["keypoint_heatmap"].numpy(), loop["keypoint_heatmap"], atol=1e-6
    )
    cells = targets["det"]["cells"]
    for name, values in (
        ("wh", targets["det"]["wh"]),
        ("offset", targets["center"]["offset"]),
        ("keypoint_offset", targets["pose"]["keypoint_offset"].flatten(1)),
    ):
        dense = torch.from_numpy(loop[name])
        np.testing.assert_allclose(dense[cells.index].numpy(), values.numpy(), atol=1e-4)
