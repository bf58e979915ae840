"""Kinds of keypoint errors, each planted once."""

from __future__ import annotations

import numpy as np
import pytest

from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from d2_multitask.reports.keypoints import KINDS, error_kinds, keypoint_tables
from d2_multitask.reports.objects import ObjectAnalysis
from evaluation_support import JOINTS, annotation, coco_json, inputs_of, instances

AREA, SIGMA = 900.0, 0.1


def off(similarity: float) -> float:
    """The distance at which OKS gives this similarity: sqrt(-2 ln(ks)) s k, k = 2 sigma."""
    return float(np.sqrt(-2 * np.log(similarity)) * np.sqrt(AREA) * 2 * SIGMA)


def kinds(found, own, others=(), mirrored=None):
    own, others = np.array(own, float), np.array(others, float).reshape(-1, len(own), 3)
    mirrored = np.arange(len(own)) if mirrored is None else np.array(mirrored)
    areas, sigmas = np.full(1 + len(others), AREA), np.full(len(own), SIGMA)
    result = error_kinds(np.array(found, float), own, others, areas, sigmas, mirrored)
    return ["unlabelled" if k < 0 else KINDS[k] for k in result]


def test_good_jitter_and_miss_end_at_the_paper_s_similarities():
    own = [[0, 0, 2]] * 4
    found = [[off(s), 0] for s in (0.86, 0.84, 0.51, 0.49)]
    assert kinds(found, own) == ["good", "jitter", "jitter", "miss"]


def test_the_most_similar_label_decides():
    """Exactly on the other hip, which is 20 pixels away: similar to its own, too."""
    hips = [[0, 0, 2], [off(0.6), 0, 2]]
    assert kinds([[off(0.6), 0], [off(0.6), 0]], hips, mirrored=[1, 0]) == ["inversion", "good"]


def test_inversion_swap_and_labels_that_are_not_there():
    own = [[0, 0, 2], [100, 0, 2], [50, 200, 0]]
    other = [[0, 300, 2], [100, 300, 1], [50, 500, 2]]
    mirrored = [1, 0, 2]
    # on its other side; on the same joint of the other person; no label
    assert kinds([[100, 1], [100, 301], [50, 500]], own, [other], mirrored) == [
        "inversion",
        "swap",
        "unlabelled",
    ]
    # on the other person's other side; far from all
    assert kinds([[100, 301], [500, 500], [0, 0]], own, [other], mirrored)[:2] == ["swap", "miss"]
    # not a label: the other person's joint of visibility 0 cannot be swapped with
    hidden = [[0, 300, 0], [100, 300, 0], [50, 500, 0]]
    assert kinds([[0, 300], [100, 0], [0, 0]], own, [hidden], mirrored)[:2] == ["miss", "good"]


def test_tables_count_what_was_planted(register):
    """One joint of each person is far away, all others are right."""
    people = [annotation(1, 1, [5, 5, 20, 40]), annotation(2, 2, [10, 8, 36, 50])]
    name = register(coco_json(people))
    evaluator = MultitaskCOCOEvaluator(
        name, ("keypoints",), output_dir=None, kpt_oks_sigmas=[0.08] * len(JOINTS)
    )
    evaluator.reset()
    for input_, person in zip(inputs_of(name), people, strict=True):
        joints = list(person["keypoints"])
        joints[3:5] = [-500, -500]
        evaluator.process([input_], [{"instances": instances([person["bbox"]], [joints])}])
    before = evaluator.evaluate()["keypoints"]["AP"]
    shares, mended = keypoint_tables(ObjectAnalysis(evaluator))
    rows = {row[0]: row[1:] for row in shares.rows}
    assert rows["joint_1"] == [0, 0, 0, 0, 100.0, 2]
    assert rows["joint_0"] == [100.0, 0, 0, 0, 0, 2]
    assert rows["all"] == [80.0, 0, 0, 0, 20.0, 10]
    after = {row[0]: row[1] for row in mended.rows}
    assert before < 100 and after["jitter"] == pytest.approx(before)
    assert after["miss"] == pytest.approx(100)
