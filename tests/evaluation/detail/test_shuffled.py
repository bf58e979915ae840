"""Drawn scenes: each scene's own labels as the prediction, and those of another scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from d2_multitask.data.datasets.pascal_in_detail import load_phase
from d2_multitask.data.labels.sem_seg import ImageLabels
from d2_multitask.evaluation.build import build_evaluator
from detail_support import HEIGHT, MAIN, WIDTH, inputs_of, perfect_output
from synthetic.in_detail import write_synthetic_in_detail
from synthetic.in_detail.scene import DETAIL_CONFIG

CONFIG = replace(
    DETAIL_CONFIG,
    short_side=(HEIGHT, HEIGHT),
    aspect_ratio=(WIDTH / HEIGHT, WIDTH / HEIGHT),
    portrait_probability=0.0,
)
NUM_SCENES = 16


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = write_synthetic_in_detail(tmp_path_factory.mktemp("drawn"), 0, NUM_SCENES, config=CONFIG)
    return load_phase(str(path), "", "val").dataset_dicts


@pytest.fixture
def evaluate(cfg, register_records, records):
    """Outputs, one a scene -> results."""
    # As in test_build.py: the usual distance is below a pixel in scenes of this size.
    cfg.TEST.PASCAL_IN_DETAIL.BOUNDARY_MAX_DISTANCE = 0.02
    evaluator = build_evaluator(cfg, register_records(records), cfg.OUTPUT_DIR)

    def run(outputs):
        evaluator.reset()
        evaluator.process(inputs_of(records), outputs)
        return evaluator.evaluate()

    return run


def test_labels_of_the_scene_itself_are_perfect(evaluate, records):
    results = evaluate([perfect_output(record) for record in records])
    for task, metric in MAIN.items():
        # Where fragments of two directions meet, a thinned pixel may go to the wrong one.
        tolerance = 1 if task == "occlusion" else 1e-6
        assert results[task][metric] == pytest.approx(100, abs=tolerance), task


def test_labels_of_another_scene_are_near_chance(evaluate, records):
    outputs = [perfect_output(record) for record in records]
    results = evaluate(outputs[1:] + outputs[:1])
    for task in ("bbox", "segm", "keypoints"):
        assert results[task]["AP"] < 2, task
    # Of 21 drawn classes; of one class and little else.
    assert results["sem_seg"]["mIoU"] < 15
    assert results["part_seg"]["mIoU"] < 100 / 7 + 5
    assert results["boundary"]["ODS-F"] < 40
    assert results["occlusion"]["ODS-F"] < 15
    # A half of few directions that are alike; and some scenes have none to give away.
    assert 20 < results["occlusion"]["orientation-accuracy-at-labels"] < 65
    # The AP of a class that is in a share p of the scenes is about p.
    labels = np.stack([ImageLabels().read(record) for record in records])
    shares = labels.mean(axis=0)
    assert results["image_labels"]["mAP"] == pytest.approx(100 * shares[shares > 0].mean(), abs=12)
