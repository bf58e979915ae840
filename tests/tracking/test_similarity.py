from __future__ import annotations

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from d2_multitask.tracking.similarity import box_iou, keypoint_similarity


def test_iou_is_cocos():
    rng = np.random.default_rng(1)
    first, second = (
        np.concatenate((low, low + rng.uniform(0, 30, low.shape)), 1)
        for low in (rng.uniform(0, 20, (5, 2)), rng.uniform(0, 20, (4, 2)))
    )
    xywh = [np.concatenate((b[:, :2], b[:, 2:] - b[:, :2]), 1) for b in (first, second)]
    expected = mask.iou(*xywh, [0] * 4)
    np.testing.assert_allclose(box_iou(first, second), expected, atol=1e-12)
    assert box_iou(first[:0], second).shape == (0, 4)


def test_oks_is_cocos_where_all_confidences_are_one():
    rng = np.random.default_rng(2)
    truth, found = rng.uniform(0, 60, (2, 17, 3)), rng.uniform(0, 60, (2, 17, 3))
    truth[..., 2], found[..., 2] = 2, 1
    evaluation = COCOeval(iouType="keypoints")
    areas = np.array([900.0, 400.0])
    evaluation._gts[1, 1] = [
        {"keypoints": k.ravel().tolist(), "bbox": [0, 0, 9, 9], "area": area, "ignore": 0}
        for k, area in zip(truth, areas, strict=True)
    ]
    evaluation._dts[1, 1] = [{"keypoints": k.ravel().tolist(), "score": 1.0} for k in found]
    expected = evaluation.computeOks(1, 1).T
    truth[..., 2] = 1
    sigmas = evaluation.params.kpt_oks_sigmas
    np.testing.assert_allclose(keypoint_similarity(truth, found, areas, sigmas), expected)


def test_a_keypoint_counts_as_much_as_its_weaker_confidence():
    first = np.array([[[0.0, 0, 0.9], [0, 0, 0.2]]])
    second = np.array([[[0.0, 0, 0.3], [1000, 0, 0.8]]])
    similarity = keypoint_similarity(first, second, np.array([100.0]), np.array([0.1, 0.1]))
    np.testing.assert_allclose(similarity, [[0.3 / 0.5]])


def test_without_confidence_nothing_is_alike():
    nothing = np.zeros((1, 2, 3))
    assert keypoint_similarity(nothing, nothing, np.ones(1), np.ones(2)) == 0
