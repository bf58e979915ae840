"""The cost report: its numbers, its rows, and rows that fail."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.analysis import FlopCountAnalysis
from scipy.ndimage import maximum_filter
from torch import nn

from benchmark.cost import (
    cost_json,
    cost_table,
    measure_costs,
    parts_table,
)
from benchmark.counting import count_multiply_adds, peak_memory
from benchmark.networks import (
    Contestant,
    Setting,
    build_bare_backbone,
    build_detectron2_backbone,
    build_networks,
    network_cfg,
    rows_of_config,
    set_candidate_thresholds,
    set_score_threshold,
)

TINY = Setting(size=64, people=2)
CONFIG = "quick/mcn_seg_det_pose.yaml"
OPTS = ["MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"]


def test_multiply_adds_of_a_known_convolution() -> None:
    """A 3x3 convolution from 2 to 5 channels on 4x6 cells: 9 * 2 * 5 * 24."""
    conv = nn.Conv2d(2, 5, 3, padding=1)
    assert count_multiply_adds(lambda: conv(torch.zeros(1, 2, 4, 6))) == 9 * 2 * 5 * 24


def test_multiply_adds_are_fvcores() -> None:
    backbone = build_bare_backbone(network_cfg(CONFIG, OPTS, TINY), TINY).networks[0]
    image = torch.zeros(1, 3, 64, 64)
    flops = FlopCountAnalysis(backbone, (image,))
    flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    convolutions = flops.by_operator()["conv"]
    assert count_multiply_adds(lambda: backbone(image)) == convolutions > 0


def test_peak_memory_sees_what_is_gone_at_the_end() -> None:
    megabytes = 200
    needed = peak_memory(lambda: torch.ones(megabytes * 250_000).sum())
    assert needed > 0.5 * megabytes * 1e6


def test_rows_of_a_config_and_their_parameters() -> None:
    rows = rows_of_config(CONFIG, OPTS, TINY)
    assert list(rows) == [
        "quick/mcn_seg_det_pose",
        "quick/mcn_seg_det_pose: 3 single networks",
        "quick/mcn_seg_det_pose: det+pose and seg",
        "quick/mcn_seg_det_pose: bare backbone and neck",
    ]
    joint, single, pairs, bare = (build().num_parameters for build in rows.values())
    assert bare < joint < pairs < single < 3 * joint
    assert list(rows_of_config("quick/mcn_det.yaml", OPTS, TINY)) == [
        "quick/mcn_det",
        "quick/mcn_det: bare backbone and neck",
    ]


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of_config(CONFIG, OPTS, TINY)
    rows["broken"] = lambda: build_networks(network_cfg("absent.yaml", [], TINY), [["det"]], TINY)
    costs = measure_costs(rows, TINY, runs=2, warmup=1, batch_size=2, batch_runs=1)
    joint = costs["quick/mcn_seg_det_pose"]
    assert joint.spread[0] <= joint.latency <= joint.spread[1]
    assert joint.throughput > 0 and joint.multiply_adds > 0 and not joint.error
    assert {"preprocessing", "backbone", "neck", "head pose", "decoding"} <= set(joint.parts)
    assert "no config file 'absent.yaml'" in costs["broken"].error
    bare = costs["quick/mcn_seg_det_pose: bare backbone and neck"]
    assert not bare.error and bare.multiply_adds < joint.multiply_adds
    table = cost_table(costs)
    assert table.count("\n") == 1 + len(rows) and "failed: ValueError" in table
    assert "head seg" in parts_table(costs)
    assert parts_table({"broken": costs["broken"]}) == ""
    content = json.loads(json.dumps(cost_json(costs), allow_nan=False))
    assert content["broken"] == {"error": costs["broken"].error}
    assert content["quick/mcn_seg_det_pose"]["num_parameters"] == joint.num_parameters


def test_a_row_that_fails_when_it_runs() -> None:
    class Broken(nn.Module):
        def forward(self, batch: object) -> None:
            raise RuntimeError("out of cheese")

    rows = {
        "broken": lambda: Contestant([Broken()], 0, TINY),
        "whole": lambda: Contestant([nn.Identity()], 0, TINY),
    }
    costs = measure_costs(rows, TINY, runs=1, warmup=0, batch_runs=0)
    assert costs["broken"].error == "RuntimeError: out of cheese"
    assert not costs["whole"].error


def test_bare_backbones_get_images_in_their_own_memory_order() -> None:
    ours = build_bare_backbone(network_cfg(CONFIG, OPTS, TINY), TINY)
    detectron2 = build_detectron2_backbone(TINY)
    batch = TINY.images(2)
    assert ours.prepare(batch).is_contiguous(memory_format=torch.channels_last)
    assert detectron2.prepare(batch).is_contiguous()
    (features,) = detectron2(detectron2.prepare(batch))
    assert set(features) == {"p2", "p3", "p4", "p5", "p6"}
    assert {feature.shape[1] for feature in features.values()} == {256}


def test_the_score_threshold_lets_so_many_boxes_through() -> None:
    class Predictor(nn.Module):
        test_score_thresh = 0.05

        def forward(self) -> tuple[torch.Tensor, None]:
            return torch.arange(20.0).view(10, 2), None

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.roi_heads = nn.Module()
            self.roi_heads.box_predictor = Predictor()
            self.logits = torch.stack([torch.linspace(-2, 2, 10), torch.zeros(10)], 1)

        def forward(self, batch: object) -> None:
            self.roi_heads.box_predictor.forward = lambda: (self.logits, None)
            self.roi_heads.box_predictor()

    set_score_threshold(detector := Detector(), [{}], 3)
    scores = detector.logits.softmax(1)[:, 0]
    assert int((scores > detector.roi_heads.box_predictor.test_score_thresh).sum()) == 3


def test_the_candidate_thresholds_leave_decoding_its_work() -> None:
    """50 objects, and at most 4 peaks per person of each keypoint: counted by SciPy."""
    setting = Setting(size=128, people=2)
    network = build_model(network_cfg(CONFIG, OPTS, setting)).eval()
    batch = setting.images(1)
    set_candidate_thresholds(network, batch, setting.people)
    with torch.no_grad():
        features = network.backbone(network.preprocess_image(batch).tensor)
        center = network.heads["center"].layers(features)["heatmap"].sigmoid()[0].numpy()
        joints = network.heads["pose"].layers(features)["keypoint_heatmap"].sigmoid()[0].numpy()
    heads = network.heads
    for heatmap, threshold, count in (
        (center, heads["center"].score_threshold, 50),
        (joints, heads["pose"].matching.score_threshold, 4 * setting.people),
    ):
        peaks = heatmap == maximum_filter(heatmap, (1, 3, 3), mode="nearest")
        above = peaks & (heatmap > threshold)
        assert above.sum((1, 2)).max() == count


def test_networks_without_heads_have_no_candidates() -> None:
    set_candidate_thresholds(network := nn.Linear(1, 1), [{}], 10)
    assert not network.training


@pytest.mark.slow
def test_detectron2s_own_networks_find_people() -> None:
    from benchmark.networks import build_detectron2_networks

    setting = Setting(size=256, people=10)
    keypoints, panoptic = build_detectron2_networks(setting)(setting.images(1))
    assert 1 <= len(keypoints[0]["instances"]) <= 10
    assert keypoints[0]["instances"].has("pred_keypoints")
    assert 1 <= len(panoptic[0]["instances"]) <= 10
    assert panoptic[0]["instances"].has("pred_masks") and "sem_seg" in panoptic[0]
