"""Which skeleton belongs to which person, and real skeletons of the dataset."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from d2_multitask.data.datasets.pascal_in_detail.joints import match_skeletons, to_coco_visibility
from d2_multitask.data.datasets.pascal_in_detail.names import KEYPOINT_NAMES
from detail_miniature import miniature

# Published by the dataset's authors: the visible rider of 2008_003429 (500x375) and the skater of
# 2010_003469 (500x332), whose far arm and leg are occluded. x, y, visibility as in the file.
_ABSENT = [0, 0, 0]
RIDER = [
    *[386.5, 147.3, 1, 396.7, 177.8, 1, 395.8, 184.6, 1, 366.2, 220.2, 1, 334.0, 223.6, 1],
    *[397.5, 249.9, 1, 336.5, 265.1, 1, 365.3, 310.0, 1, *_ABSENT * 6],
]
SECOND_RIDER = [
    *[425.5, 179.5, 1, 431.4, 203.3, 1, 435.7, 210.0, 1, 418.7, 233.8, 1, 396.7, 227.8, 1],
    *[422.1, 247.3, 1, 395.8, 259.2, 1, 400.9, 294.8, 1, *_ABSENT * 6],
]
SKATER = [
    *[261.7, 16.1, 1, 248.6, 67.5, 1, *_ABSENT, 265.4, 109.5, 1, *_ABSENT * 4],
    *[220.6, 61.0, 1, 239.3, 112.3, 1, 288.8, 129.1, 2, 145.9, 141.3, 1, 232.8, 164.6, 2],
    *[169.6, 217.3, 1],
]
WRIST, HIP = KEYPOINT_NAMES.index("left_wrist"), KEYPOINT_NAMES.index("left_hip")


def joints(values):
    return np.array(values, dtype=float).reshape(14, 3)


@pytest.mark.parametrize("rider", [RIDER, SECOND_RIDER], ids=["first", "second"])
def test_real_riders_prove_the_order_of_wrist_and_hip(rider):
    """On a motorbike the hip is below the neck, and the wrist is ahead on the handlebar."""
    points = joints(rider)
    neck, wrist, hip = points[1, :2], points[WRIST, :2], points[HIP, :2]
    assert abs(hip[0] - neck[0]) < 10 < 30 < neck[0] - wrist[0]
    assert hip[1] > wrist[1] + 15


def test_visibility_of_a_real_skeleton_is_turned_to_cocos():
    given, turned = joints(SKATER), joints(to_coco_visibility(SKATER))
    assert np.array_equal(given[:, :2], turned[:, :2])
    assert (given[:, 2] == 1).sum() == (turned[:, 2] == 2).sum() == 7
    assert np.flatnonzero(turned[:, 2] == 1).tolist() == [10, 12]
    assert to_coco_visibility(to_coco_visibility(SKATER)) == SKATER
    nested = [SKATER[i : i + 3] for i in range(0, len(SKATER), 3)]
    assert to_coco_visibility(nested) == to_coco_visibility(SKATER)


def person(x, y, w, h, size=(60, 80)):
    mask = np.zeros(size, np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    rle = coco_mask.encode(mask)
    segmentation = {"size": list(size), "counts": rle["counts"].decode()}
    return {"bbox": [x, y, w, h], "segmentation": segmentation}


def skeleton(box, *points):
    values = np.zeros((14, 3))
    for row, (x, y) in zip(values, points, strict=False):
        row[:] = x, y, 2
    return {"bbox": list(box), "keypoints": values.reshape(-1).tolist()}


def test_skeletons_go_to_the_people_that_they_lie_on():
    people = [person(5, 5, 20, 40), person(40, 5, 20, 40)]
    skeletons = [
        skeleton((40, 5, 20, 40), (50, 10), (50, 20)),
        skeleton((5, 5, 20, 40), (10, 10), (10, 20)),
    ]
    assert sorted(match_skeletons(skeletons, people)) == [(0, 1), (1, 0)]


def test_the_sum_decides_not_the_first_come():
    """Both lie on both masks; only exchanged do both boxes fit."""
    people = [person(0, 0, 30, 50), person(10, 0, 30, 50)]
    inside = [(15.0, 10.0), (20.0, 20.0)]
    skeletons = [skeleton((10, 0, 30, 50), *inside), skeleton((0, 0, 30, 50), *inside)]
    assert sorted(match_skeletons(skeletons, people)) == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("point", "matched"),
    [((27.9, 20), True), ((28.1, 20), False), ((20, 47.5), True), ((20, 48.2), False)],
)
def test_joints_within_three_pixels_of_the_mask_count(point, matched):
    """The mask's last pixels are column 24 and row 44."""
    pair = match_skeletons([skeleton((60, 0, 5, 5), point)], [person(5, 5, 20, 40)])
    assert bool(pair) == matched


def test_a_box_that_fits_is_enough_and_nothing_else_is():
    people = [person(5, 5, 20, 40)]
    assert match_skeletons([skeleton((5, 5, 20, 40), (70, 50))], people) == [(0, 0)]
    assert match_skeletons([skeleton((50, 5, 20, 40), (70, 50))], people) == []
    assert match_skeletons([], people) == match_skeletons([skeleton((5, 5, 20, 40))], []) == []


def test_a_skeleton_of_nobody_is_kept(load):
    content = miniature()
    del content["annos_segmentation"][2]
    content["annos_joints"][0]["bbox"] = [0, 1, 2, 5]
    content["annos_joints"][0]["keypoints"][:12] = [0.5, 1.0, 1] * 4
    content["annos_joints"][0]["keypoints"][24:27] = [0, 0, 0]
    loaded = load(content)
    assert (loaded.matches.skeletons, loaded.matches.matched, loaded.matches.people) == (2, 1, 1)
    (kept,) = loaded.dataset_dicts[0]["unmatched_keypoints"]
    assert kept["bbox"] == [0, 1, 2, 5] and len(kept["keypoints"]) == 42
