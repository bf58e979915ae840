"""Planted faults of joints: each is found, alone, and gone when the proposed lines are pasted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from d2_multitask.doctor.joints import _sigma
from doctor_support import Content, check_planted, found, set_config


def joints_of(annotation: Content) -> np.ndarray:
    return np.array(annotation["keypoints"]).reshape(17, 3)


def exchange(content: Content, pairs: list[tuple[int, int]], people: range = range(30)) -> None:
    """The labels of joints; index + 1 is COCO's right side."""
    for i in people:
        joints = joints_of(content["annotations"][i])
        for a, b in pairs:
            joints[[a, b]] = joints[[b, a]]
        content["annotations"][i]["keypoints"] = joints.ravel().tolist()


PAIRS = [(k, k + 1) for k in range(1, 17, 2)]


def test_nothing_is_found_in_a_clean_set(tmp_path: Path) -> None:
    assert found(set_config(tmp_path)) == []


def test_a_pair_of_names_that_flips_do_not_exchange(tmp_path: Path) -> None:
    pairs = [[f"left_{n}", f"right_{n}"] for n in ("eye", "ear", "shoulder", "elbow", "wrist")]
    pairs += [["left_hip", "right_knee"], ["left_knee", "right_hip"]]
    cfg = set_config(tmp_path, KEYPOINT_FLIP_PAIRS=pairs)
    finding = check_planted(cfg, "joints/pairs", "error")
    assert finding.examples[0] == "left_hip: found right_knee, expected right_hip"
    assert finding.count == 3 and "ankle" in finding.examples[2]


@pytest.mark.parametrize("pair", [(5, 6), (13, 14), (15, 16)])
def test_a_pair_with_exchanged_names(tmp_path: Path, pair) -> None:
    cfg = set_config(tmp_path, lambda content: exchange(content, [pair]))
    finding = check_planted(cfg, "joints/sides", "error")
    assert "in 100% of 30" in finding.examples[0] and finding.count == 1


def test_eyes_with_exchanged_names(tmp_path: Path) -> None:
    """They are too near to each other for the test of all pairs; the nose and the body tell."""
    cfg = set_config(tmp_path, lambda content: exchange(content, PAIRS[:1]))
    finding = check_planted(cfg, "joints/sides", "error")
    assert "('left_eye', 'right_eye')" in finding.mend


def test_left_and_right_of_the_viewer(tmp_path: Path) -> None:
    cfg = set_config(tmp_path, lambda content: exchange(content, PAIRS))
    finding = check_planted(cfg, "joints/faces", "warning")
    assert "viewer" in finding.text and finding.count == 30


def test_one_person_with_exchanged_sides(tmp_path: Path) -> None:
    cfg = set_config(tmp_path, lambda content: exchange(content, PAIRS, range(7, 8)))
    finding = check_planted(cfg, "joints/faces", "warning", is_mended=False)
    assert finding.count == 1 and finding.examples[0].endswith("8.png, object 1")


def test_bodies_that_contradict_their_faces(tmp_path: Path) -> None:
    cfg = set_config(tmp_path, lambda content: exchange(content, PAIRS[2:], range(0, 9)))
    finding = check_planted(cfg, "joints/bodies", "warning", is_mended=False)
    assert finding.count == 9


def test_pairs_without_names(tmp_path: Path) -> None:
    """Numbers as names: which are pairs is told by where they are."""

    def rename(content: Content) -> None:
        content["categories"][0]["keypoints"] = [f"k{i}" for i in range(17)]

    cfg = set_config(tmp_path, rename)
    cfg.DATASETS.TEST = ()  # whose names differ
    finding = check_planted(cfg, "joints/places", "warning")
    for pair in ("[k5, k6]", "[k7, k8]", "[k9, k10]", "[k13, k14]"):
        assert pair in finding.mend


def test_pairs_without_names_that_are_told_wrong(tmp_path: Path) -> None:
    def rename(content: Content) -> None:
        content["categories"][0]["keypoints"] = [f"k{i}" for i in range(17)]

    pairs = [[f"k{i}", f"k{j}"] for i, j in PAIRS]
    pairs[2:4] = [["k5", "k8"], ["k7", "k6"]]
    cfg = set_config(tmp_path, rename, KEYPOINT_FLIP_PAIRS=pairs)
    cfg.DATASETS.TEST = ()
    finding = check_planted(cfg, "joints/places", "warning")
    assert finding.count == 2 and "[k5, k6]" in finding.mend and "[k7, k8]" in finding.mend


def test_joints_outside_of_the_box(tmp_path: Path) -> None:
    def move(content: Content) -> None:
        joints = joints_of(content["annotations"][4])
        joints[3, :2] = (1, 95)
        content["annotations"][4]["bbox"] = [20, 5, 25, 60]
        content["annotations"][4]["segmentation"] = [[20, 5, 45, 5, 45, 65, 20, 65]]
        content["annotations"][4]["keypoints"] = joints.ravel().tolist()

    cfg = set_config(tmp_path, move)
    finding = check_planted(cfg, "joints/outside", "warning", is_mended=False)
    assert "5.png, object 1: found left_ear at [1.5, 95.5]" in finding.examples[0]


def test_joints_in_other_units(tmp_path: Path) -> None:
    def halve(content: Content) -> None:
        for annotation in content["annotations"]:
            joints = joints_of(annotation)
            joints[:, :2] /= 8
            annotation["keypoints"] = joints.ravel().tolist()

    check_planted(set_config(tmp_path, halve), "joints/outside", "error", is_mended=False)


@pytest.mark.parametrize(
    ("sigmas", "severity", "text"),
    [
        pytest.param([0.05] * 11, "error", "found 11 values, expected 17", id="number"),
        pytest.param([0.1, *[0.05] * 15, 0.0], "error", "values above 0", id="zero"),
        pytest.param([0.089, 0.026, *[0.05] * 15], "warning", "other keypoints", id="other"),
    ],
)
def test_sigmas_of_another_skeleton(tmp_path: Path, sigmas, severity, text) -> None:
    cfg = set_config(tmp_path)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = sigmas
    assert text in check_planted(cfg, "joints/sigmas", severity).text


def test_no_sigmas_for_other_keypoints(tmp_path: Path) -> None:
    def turn(content: Content) -> None:
        names = content["categories"][0]["keypoints"]
        content["categories"][0]["keypoints"] = names[::-1]
        for annotation in content["annotations"]:
            annotation["keypoints"] = joints_of(annotation)[::-1].ravel().tolist()

    cfg = set_config(tmp_path, turn)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("planted_train",)
    finding = check_planted(cfg, "joints/sigmas", "warning")
    assert "right_ankle: found 0.026, expected about 0.089" in finding.examples


def test_sigmas_by_the_words_of_names() -> None:
    names = ["left_ear", "LEye", "rear_toe", "nose", "leftHip", "right eyebrow"]
    assert [_sigma(name) for name in names] == [0.035, 0.025, 0.08, 0.026, 0.107, 0.08]
