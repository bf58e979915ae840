"""Left and right of joints: by the metadata's pairs, or by name; never in silence wrong."""

from __future__ import annotations

import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_multitask.data.datasets.keypoint_flips import flip_indices

NAMES = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"]
PAIRS = [("left_eye", "right_eye"), ("left_ear", "right_ear")]


@pytest.fixture
def register():
    """A function that registers a data set with these joints and pairs."""
    added = []

    def add(name, **metadata):
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(thing_classes=["person"], **metadata)
        added.append(name)
        return name

    yield add
    for name in added:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    "flip_map",
    [
        pytest.param(PAIRS, id="pairs"),
        pytest.param([list(pair) for pair in PAIRS], id="lists"),
        pytest.param([*PAIRS, ("right_eye", "left_eye"), ("nose", "nose")], id="both ways"),
        pytest.param(dict(PAIRS), id="mapping"),
    ],
)
def test_pairs_of_the_metadata(register, caplog, flip_map):
    assert flip_indices([register("a", keypoint_names=NAMES, keypoint_flip_map=flip_map)]) == [
        0,
        2,
        1,
        4,
        3,
    ]
    assert not caplog.messages


def test_without_pairs_sides_are_found_by_name(register, caplog):
    name = register("a", keypoint_names=NAMES)
    with caplog.at_level(logging.WARNING):
        assert flip_indices([name]) == [0, 2, 1, 4, 3]
    assert "'a': keypoint_flip_map: found none" in caplog.text
    assert "left_eye = right_eye" in caplog.text
    other = register("b", keypoint_names=NAMES, keypoint_flip_map=[("left_eye", "right_eye")])
    assert flip_indices([name, other]) == [0, 2, 1, 3, 4]


@pytest.mark.parametrize("flip_map", [[], PAIRS[:1]])
def test_sides_that_are_not_swapped_are_named(register, caplog, flip_map):
    name = register("a", keypoint_names=NAMES, keypoint_flip_map=flip_map)
    with caplog.at_level(logging.WARNING):
        flip_indices([name])
    assert "no partner of the keypoints" in caplog.text and "'left_ear', 'right_ear'" in caplog.text


@pytest.mark.parametrize(
    ("flip_map", "message"),
    [
        pytest.param(
            [("left_eye", "right_hand")], r"found \('left_eye', 'right_hand'\)", id="joint"
        ),
        pytest.param([("left_eye",)], r"found \('left_eye',\), expected pairs", id="alone"),
        pytest.param([1, 2], "found 1, expected pairs", id="number"),
        pytest.param(["left_eye"], "found 'left_eye', expected pairs", id="text"),
        pytest.param(
            [("left_eye", "right_eye"), ("right_eye", "nose")],
            "found 'left_eye' and 'nose' for the keypoint 'right_eye'",
            id="chain",
        ),
    ],
)
def test_wrong_pairs(register, flip_map, message):
    name = register("a", keypoint_names=NAMES, keypoint_flip_map=flip_map)
    with pytest.raises(ValueError, match=f"'a': keypoint_flip_map: {message}"):
        flip_indices([name])


def test_joints_without_names(register):
    with pytest.raises(ValueError, match=r"'a': keypoint_names: found none.*get\('a'\)"):
        flip_indices([register("a")])
