"""Gradients of tasks by shared features: against derivatives by hand and NumPy."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from d2_multitask.config import load_config
from d2_multitask.engine.task_gradients import (
    GradientStatistics,
    gram_matrix,
    gram_statistics,
    shared_features,
    sum_by_task,
    task_gradients,
    task_names,
    task_of_loss,
)
from modeling.rcnn_support import rcnn, rcnn_image
from support import labelled_image, without


def gradient_statistics(gradients: dict[str, Tensor]) -> GradientStatistics:
    return gram_statistics(list(gradients), gram_matrix(gradients))


class Doubled(nn.Module):
    """Two maps: the input times a weight, and twice that."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"p2": self.weight * x, "p3": [2 * self.weight * x], "fixed": x}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Doubled()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(x)
        p2, p3 = maps["p2"], maps["p3"][0]
        return {
            "loss_a_sum": p2.sum(),
            "loss_b": p3.square().sum() / 2,
            "loss_a_half": p3.sum() / 2,
            "loss_none": x.new_zeros(()),
        }


@pytest.mark.parametrize(
    ("name", "tasks", "expected"),
    [
        ("loss_seg", ["seg", "det"], "seg"),
        ("loss_part_seg_ce", ["part", "part_seg"], "part_seg"),
        ("loss_details", ["det"], ""),
        ("loss_rpn_cls", ["det", "mask"], "det"),
        ("loss_box_reg", ["det", "mask"], "det"),
        ("loss_mask", ["det", "mask"], "mask"),
        ("loss_keypoint", ["pose"], "pose"),
        ("total", ["det"], ""),
    ],
)
def test_task_of_loss(name, tasks, expected):
    assert task_of_loss(name, tasks) == expected


def test_gradients_by_hand():
    model = Network()
    with shared_features(model) as features:
        losses = model(torch.tensor([3.0, 4.0]))
    assert [feature.tolist() for feature in features] == [[3, 4], [6, 8]]  # what is not learned: no
    totals = sum_by_task(losses, ["b", "a", "none", "absent"])
    for scale in (1.0, 1024.0):
        found = task_gradients(totals, features, scale)
        assert {name: gradient.tolist() for name, gradient in found.items()} == {
            "b": [0, 0, 6, 8],
            "a": [1, 1, 0.5, 0.5],
            "none": [0, 0, 0, 0],
        }
    assert list(found) == ["b", "a", "none"]
    assert model.backbone.weight.grad is None and not model.backbone._forward_hooks
    sum(totals.values()).backward()  # the graph is still there
    assert model.backbone.weight.grad == 7 + 100 + 7


def test_float16_does_not_underflow():
    x = torch.ones(2, dtype=torch.float16, requires_grad=True)
    losses = {"a": (x * 1).float().sum() * 1e-9}
    assert task_gradients(losses, [x])["a"].tolist() == [0, 0]
    assert task_gradients(losses, [x], 2.0**16)["a"] == pytest.approx(1e-9, rel=1e-2)


def test_statistics_against_numpy():
    rows = np.random.default_rng(0).normal(size=(3, 50)) * [[1.0], [10.0], [0.1]]
    names = ["a", "b", "c"]
    gradients = {n: torch.tensor(r, dtype=torch.float32) for n, r in zip(names, rows, strict=True)}
    found = gradient_statistics(gradients)
    norms = np.linalg.norm(rows, axis=1)
    assert list(found.norms.values()) == pytest.approx(norms, rel=1e-6)
    assert list(found.shares.values()) == pytest.approx(norms / norms.sum(), rel=1e-6)

    def cosine(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    others = [cosine(rows[i], rows.sum(0) - rows[i]) for i in range(3)]
    assert list(found.cosines.values()) == pytest.approx(others, abs=1e-6)
    assert found.pairs["a", "c"] == pytest.approx(cosine(rows[0], rows[2]), abs=1e-6)
    assert found.pairs["c", "a"] == found.pairs["a", "c"] and len(found.pairs) == 6
    assert found.condition == pytest.approx(np.linalg.cond(rows), rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "condition", "cosines"),
    [
        ([[3.0, 0.0], [0.0, 3.0]], 1, [0, 0]),
        ([[1.0, 0.0], [0.0, 4.0]], 4, [0, 0]),
        ([[1.0, 0.0], [-2.0, 0.0]], math.inf, [-1, -1]),
        ([[1.0, 0.0], [0.0, 0.0]], math.inf, [0, 0]),
        ([[0.0, 0.0], [0.0, 0.0]], math.inf, [0, 0]),
        ([[2.0, 0.0]], 1, [0]),
    ],
)
def test_special_cases(rows, condition, cosines):
    gradients = {str(i): torch.tensor(row) for i, row in enumerate(rows)}
    found = gradient_statistics(gradients)
    assert found.condition == pytest.approx(condition)
    assert list(found.cosines.values()) == pytest.approx(cosines)
    norms = [math.hypot(*row) for row in rows]
    assert list(found.shares.values()) == pytest.approx([x / (sum(norms) or 1) for x in norms])


def test_gram_matrix():
    gradients = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0, -1.0])}
    assert gram_matrix(gradients).tolist() == [[25, -1], [-1, 2]]


def mae_joint(reads_decoder: bool) -> nn.Module:
    torch.manual_seed(0)
    cfg = load_config("quick/foreground_decoder_joint.yaml")
    cfg.MODEL.WEIGHTS, cfg.MODEL.MAE.DEPTH, cfg.MODEL.MAE.DECODER_DEPTH = "", 1, 1
    if not reads_decoder:
        cfg.MODEL.BACKBONE.NAME = "build_mae_encoder_backbone"
    return build_model(cfg)


def mcn() -> nn.Module:
    torch.manual_seed(0)
    return build_model(load_config("quick/mcn_seg_det_pose.yaml"))


SMALL = {"height": 32, "width": 32}
NETWORKS = {
    "mcn": (mcn, labelled_image(), ["center", "det", "pose", "seg"], [(48, 16, 16)]),
    "rcnn": (
        # Of segmentation's gradient at its weight of 2 that of a fresh mask head is 1e-5, less than
        # the balancer makes up for.
        partial(rcnn, ["det", "seg"], "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 0.02),
        rcnn_image(),
        ["det", "mask", "pose", "seg"],
        [(16, 24, 24), (16, 12, 12), (16, 6, 6), (16, 3, 3), (16, 2, 2)],
    ),
    # An output for the heads and one for the reconstruction of all patches from some.
    "mae": (
        partial(mae_joint, True),
        labelled_image(**SMALL),
        ["reconstruction", "foreground"],
        [(17, 128), (17, 128)],
    ),
    "mae-encoder": (
        partial(mae_joint, False),
        labelled_image(**SMALL),
        ["reconstruction", "foreground"],
        [(17, 192), (5, 192)],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_task_reaches_the_shared_features(name):
    build, image, tasks, shapes = NETWORKS[name]
    model = build()
    assert sorted(task_names(model)) == sorted(tasks)
    with EventStorage(), shared_features(model) as features:
        losses = sum_by_task(model([image, without(image, "sem_seg", "instances")]), tasks)
    assert [tuple(feature.shape[1:]) for feature in features] == shapes
    found = gradient_statistics(task_gradients(losses, features))
    assert list(found.norms) == tasks and min(found.norms.values()) > 0
    assert sum(found.shares.values()) == pytest.approx(1)
    assert all(p.grad is None for p in model.parameters())


def test_bad_arguments():
    with (
        pytest.raises(ValueError, match="Linear has no backbone"),
        shared_features(nn.Linear(1, 1)),
    ):
        pass
    with pytest.raises(ValueError, match=r"found no shared features .* MODEL\.FREEZE"):
        task_gradients({"a": torch.zeros(())}, [])
    with pytest.raises(FloatingPointError, match=r"\['b'\]"):
        gradient_statistics({"a": torch.ones(2), "b": torch.tensor([1.0, math.nan])})
