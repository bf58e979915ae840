"""Which heads a list of tasks means, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import build_heads
from d2_multitask.heads.base import TaskHead
from d2_multitask.heads.build import TaskHeads, with_required
from support import TinyBackbone


@pytest.mark.parametrize(
    ("tasks", "heads"),
    [
        (["seg"], ["seg"]),
        (["det"], ["center", "det"]),
        (["pose"], ["center", "pose"]),
        (["pose", "det"], ["center", "det", "pose"]),  # pose reads boxes, so det runs first
        (["seg", "pose", "det"], ["seg", "center", "det", "pose"]),
        (["det", "det"], ["center", "det"]),
    ],
)
def test_order(tasks: list[str], heads: list[str]) -> None:
    assert with_required(tasks) == heads


def test_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"MODEL.TASKS.*'boxes'.*center, .*det, .*pose, seg"):
        with_required(["boxes"])


def test_no_task() -> None:
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = []
    with pytest.raises(ValueError, match="MODEL.TASKS.*at least one"):
        build_heads(cfg, TinyBackbone().output_shape())


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("SEM_SEG_HEAD.LOSS_WEIGHT", -1.0, "0 or more"),
        ("DET_HEAD.REFINE.GIOU_WEIGHT", -0.1, "0 or more"),
        ("ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", float("nan"), "0 or more"),
        ("MAE_BACKBONE.RECONSTRUCTION_WEIGHT", float("inf"), "0 or more"),
        ("BOUNDARY_HEAD.POSITIVE_WEIGHT", 1.5, "0 or more, below 1"),
    ],
)
def test_no_loss_is_raised(key: str, value: float, expected: str) -> None:
    cfg = get_multitask_cfg()
    cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(ValueError, match=rf"^MODEL\.{key}: found {value}, expected {expected}$"):
        build_heads(cfg, TinyBackbone().output_shape())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ASSIGN_RADIUS", -1),
        ("TOPK_TEST", 0),
        ("NMS_THRESH_TEST", 1.5),
        ("NMS_THRESH_TEST", -0.1),
        ("PEAK_WINDOW_TEST", 2),
    ],
)
def test_numbers_of_the_center_head(key: str, value: float) -> None:
    cfg = get_multitask_cfg()
    cfg.MODEL.CENTER_HEAD[key] = value
    with pytest.raises(ValueError, match=rf"^MODEL\.CENTER_HEAD\.{key}: found {value}, expected "):
        build_heads(cfg, TinyBackbone().output_shape())


def test_unknown_feature_names_the_known_ones() -> None:
    cfg = get_multitask_cfg()
    cfg.MODEL.CENTER_HEAD.IN_FEATURE = "p3"
    with pytest.raises(ValueError, match=r"CENTER_HEAD.IN_FEATURE.*'p3'.*\['p2'\]"):
        build_heads(cfg, TinyBackbone().output_shape())


def test_targets_of_the_last_version_work_with_a_warning() -> None:
    class OldHead(TaskHead):
        task = "seg"

        def layers(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
            return features

        def targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Any:
            return len(batched_inputs), images.image_sizes

        def losses(self, predictions: Any, targets: Any) -> dict[str, Any]:
            return {"loss_seg": targets}

    images = ImageList(torch.zeros(1, 3, 8, 8), [(8, 8)])
    with pytest.warns(FutureWarning, match="OldHead.targets.* is now targets\\(labels\\)"):
        losses = TaskHeads([OldHead()]).losses({}, [{}], images)
    assert losses == {"loss_seg": (1, [(8, 8)])}
