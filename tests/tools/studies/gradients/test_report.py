"""Advice, tables and picture of measurements made by hand."""

from __future__ import annotations

import json

import cv2
import pytest
import torch

from d2_multitask.config import load_config
from d2_multitask.engine.task_gradients import gram_matrix, gram_statistics
from studies.gradients.measure import Measurement
from studies.gradients.picture import draw_gradients
from studies.gradients.report import advice, report_json, report_markdown, weight_keys

MCN, RCNN = "quick/mcn_seg_det_pose.yaml", "quick/mask_rcnn_in_detail.yaml"
EVEN = {"seg": [3.0, 0.0, 4.0], "det": [4.0, 0.0, -3.0], "pose": [0.0, 5.0, 0.0]}


def measurement(gradients: dict[str, list[float]], iteration: int = 99) -> Measurement:
    gram = gram_matrix({task: torch.tensor(g) for task, g in gradients.items()})
    found = gram_statistics(list(gradients), gram)
    losses = gram_statistics([f"loss_{task}" for task in gradients], gram)
    return Measurement(iteration, dict.fromkeys(losses.norms, 0.5), losses, found)


@pytest.mark.parametrize(
    ("gradients", "sentences"),
    [
        (EVEN, ["Every task moves the shared features (the least is seg, 33.3 %) and no two"]),
        (
            {"seg": [1.2, 0.0], "det": [0.0, 98.8]},
            [
                "seg contributes 1.2 % of the shared gradient; raise "
                "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT or set SOLVER.LOSS_BALANCING gradient_norm."
            ],
        ),
        (
            {"pose": [0.0, 0.0], "det": [0.0, 1.0]},
            ["pose has no gradient: none of its labels reached the network."],
        ),
        (
            {"seg": [1.0, 0.0], "det": [-0.6, 0.8]},
            ["seg and det pull against each other in 1 of 1 measurements (mean cosine -0.60)"],
        ),
        ({"seg": [1.0]}, ["The network has one task, seg: there is nothing to compare."]),
    ],
)
def test_advice(gradients, sentences):
    found = advice(load_config(MCN), [measurement(gradients)])
    assert len(found) == len(sentences)
    assert all(text.startswith(start) for text, start in zip(found, sentences, strict=True))


def test_tasks_that_are_opposed_now_and_then():
    opposed, even = (
        measurement({"a": [1.0, 0.0], "b": [-1.0, 0.0]}),
        measurement({"a": [1.0, 0.0], "b": [0.0, 1.0]}),
    )
    (sentence,) = advice(load_config(MCN), [opposed, even])
    assert "nothing to do" in sentence
    (sentence,) = advice(load_config(MCN), [opposed, even, opposed])
    assert "in 2 of 3 measurements (mean cosine -0.67)" in sentence


@pytest.mark.parametrize(
    ("config", "task", "keys"),
    [
        (MCN, "center", ["CENTER_HEAD.HEATMAP_WEIGHT", "CENTER_HEAD.OFFSET_WEIGHT"]),
        (
            MCN,
            "det",
            [
                "DET_HEAD.GIOU_WEIGHT",
                "DET_HEAD.REFINE.GIOU_WEIGHT",
                "DET_HEAD.REFINE.QUALITY_WEIGHT",
            ],
        ),
        ("centernet/ctdet_dla34_2x.yaml", "det", ["DET_HEAD.WH_WEIGHT"]),
        (RCNN, "boundary", ["BOUNDARY_HEAD.LOSS_WEIGHT"]),
        (RCNN, "pose", ["ROI_KEYPOINT_HEAD.LOSS_WEIGHT"]),
        (RCNN, "mask", []),
        (RCNN, "unknown", []),
        ("mae_foreground.yaml", "reconstruction", ["MAE_BACKBONE.RECONSTRUCTION_WEIGHT"]),
    ],
)
def test_weight_keys(config, task, keys):
    assert weight_keys(load_config(config), task) == [f"MODEL.{key}" for key in keys]


def test_table_and_json():
    last = measurement(
        {"seg": [1.0, 0.0, 0.0], "det": [0.0, 3.0, 0.0], "pose": [0.0, 0.0, 0.0]}, 199
    )
    text = report_markdown([measurement(EVEN), last], ["One sentence."])
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["99", "33.3", "33.3", "33.3", "1"] in rows
    assert ["199", "25.0", "75.0", "0.0", "∞"] in rows
    assert ["det", "+0.00", "", "+0.00"] in rows
    assert ["loss_det", "0.5", "3", "75.0", "+0.00"] in rows
    first, second = json.loads(report_json([measurement(EVEN), last], []))["measurements"]
    assert first["tasks"]["condition"] == pytest.approx(1) and second["tasks"]["condition"] is None
    assert second["losses"]["norms"]["loss_det"] == 3 and first["tasks"]["pairs"]["seg, pose"] == 0


def test_picture_has_more_panels_where_weights_were_logged(tmp_path):
    weights = {"seg": {0: 1.0, 50: 4.0}, "det": {0: 1.0, 50: 2.0}}
    heights = []
    curves = {"weight": weights, "share": weights}
    for count, logged in ((1, {}), (2, curves)):  # an area of one measurement too
        found = [measurement(EVEN, 100 * i) for i in range(count)]
        draw_gradients(found, logged, tmp_path / "gradients.png")
        heights.append(cv2.imread(str(tmp_path / "gradients.png")).shape[0])
    assert heights[1] > heights[0] > 500
