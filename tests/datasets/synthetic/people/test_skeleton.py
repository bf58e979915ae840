from __future__ import annotations

import math

import pytest

from synthetic.people.geometry import turn
from synthetic.people.labels import (
    KEYPOINT_NAMES,
    PART_ID,
    PARTS_OF_JOINT,
    SKELETON,
)
from synthetic.people.poses import POSES, Limb, Pose
from synthetic.people.random_stream import RandomStream
from synthetic.people.skeleton import Body, build_skeleton, random_body

ARM, LEG = Limb(10, 0, 0), Limb(2, 0, 0)
UPRIGHT = Pose(ARM, ARM, LEG, LEG)


def points(pose=UPRIGHT, yaw=0.0, body=None):
    return build_skeleton(body or Body(), pose, turn(about_y=yaw)).points


@pytest.mark.parametrize("joint", ["eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee"])
def test_seen_from_the_front_the_left_side_is_on_the_right_of_the_image(joint):
    front, back = points(yaw=0), points(yaw=180)
    assert front[f"left_{joint}"].x > 0 > front[f"right_{joint}"].x
    assert back[f"left_{joint}"].x < 0 < back[f"right_{joint}"].x


def test_seen_from_the_side_the_nose_shows_where_the_person_looks():
    seen = points(yaw=90)
    assert seen["nose"].x > seen["skull"].x + 0.04
    assert seen["right_shoulder"].z > 0.05 > seen["left_shoulder"].z
    assert points(yaw=-90)["nose"].x < seen["skull"].x - 0.04


def test_a_standing_adult_is_about_one_stature_high():
    seen = points()
    top = seen["skull"].y + Body().head
    assert top - seen["left_heel"].y == pytest.approx(1.0, abs=0.06)
    heights = [seen[name].y for name in ("nose", "neck", "left_hip", "left_knee", "left_ankle")]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize("make_pose", POSES, ids=lambda pose: pose.__name__)
def test_bones_keep_their_length_in_every_pose(make_pose):
    for seed in range(20):
        rng = RandomStream(seed)
        body = random_body(rng, 0.3)
        seen = build_skeleton(body, make_pose(rng), turn(10, rng.uniform(-180, 180), 20)).points
        for side in ("left", "right"):
            bones = {
                ("shoulder", "elbow"): body.upper_arm,
                ("elbow", "wrist"): body.lower_arm,
                ("hip", "knee"): body.upper_leg,
                ("knee", "ankle"): body.lower_leg,
            }
            for (first, second), length in bones.items():
                distance = math.dist(seen[f"{side}_{first}"], seen[f"{side}_{second}"])
                assert distance == pytest.approx(length, rel=1e-9)


@pytest.mark.parametrize(
    ("limb", "higher", "lower"),
    [
        pytest.param(Limb(150, 0, 0), "left_wrist", "nose", id="raised sideways"),
        pytest.param(Limb(0, 170, 0), "left_wrist", "nose", id="raised forward"),
        pytest.param(Limb(90, 0, 90, -90), "left_wrist", "left_elbow", id="hands up"),
        pytest.param(Limb(10, 0, 120), "left_wrist", "left_elbow", id="elbow bent"),
        pytest.param(Limb(10, 0, 0), "left_shoulder", "left_wrist", id="hanging"),
    ],
)
def test_arm_angles(limb, higher, lower):
    seen = points(Pose(limb, ARM, LEG, LEG))
    assert seen[higher].y > seen[lower].y + 0.05
    assert seen["right_wrist"] == pytest.approx(points()["right_wrist"])


def test_knees_bend_backward_and_elbows_forward():
    bent = points(Pose(Limb(0, 0, 60), ARM, Limb(0, 0, 60), LEG))
    assert bent["left_wrist"].z > bent["left_elbow"].z + 0.05
    assert bent["left_ankle"].z < bent["left_knee"].z - 0.05


def test_names_follow_coco():
    assert len(KEYPOINT_NAMES) == 17
    assert KEYPOINT_NAMES[0] == "nose" and KEYPOINT_NAMES[16] == "right_ankle"
    # Every "left" is directly followed by its "right".
    pairs = zip(KEYPOINT_NAMES[1::2], KEYPOINT_NAMES[2::2], strict=True)
    assert all(left.replace("left", "right") == right for left, right in pairs)
    assert len(SKELETON) == 19
    assert {number for pair in SKELETON for number in pair} == set(range(1, 18))


def test_each_joint_lies_on_parts_of_its_own_side():
    by_name = dict(zip(KEYPOINT_NAMES, PARTS_OF_JOINT, strict=True))
    assert by_name["left_wrist"] == {PART_ID["left_lower_arm"], PART_ID["left_hand"]}
    assert by_name["right_hip"] == {PART_ID["torso"], PART_ID["right_upper_leg"]}
    assert by_name["nose"] == {PART_ID["head"]}
