"""The miniature file and what is to come of it, worked out by hand."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from detectron2.structures import BoxMode

from d2_multitask.data.datasets import pascal_in_detail as loader
from d2_multitask.data.datasets.pascal_in_detail.names import (
    CATEGORY_IDS,
    KEYPOINT_FLIP_MAP,
    KEYPOINT_NAMES,
    PART_CLASS_OF_NAME,
    STUFF_CLASSES,
    pascal_in_detail_metadata,
)
from d2_multitask.data.labels.edges import BoundaryLabel, OcclusionLabel
from d2_multitask.data.labels.sem_seg import ImageLabels, PartSegLabel, SemSegLabel
from detail_miniature import IMAGE_ID, miniature, write

PERSON, GRASS, SKY = (STUFF_CLASSES.index(name) for name in ("person", "grass", "sky"))
HEAD, TORSO = 1, 2


def rows(*lines):
    """A map (6, 10) from text, one character a pixel."""
    return np.array([[int(c) for c in line] for line in lines])


@pytest.fixture
def record(load):
    loaded = load()
    assert loaded.problems == []
    (only,) = loaded.dataset_dicts
    return only


def test_the_image(record):
    assert record["file_name"] == "images/2008_000001.jpg"
    assert (record["image_id"], record["height"], record["width"]) == (IMAGE_ID, 6, 10)
    assert pickle.loads(pickle.dumps(record))["image_id"] == IMAGE_ID


def test_objects_are_the_two_people_with_their_masks_as_run_lengths(record):
    left, right = record["annotations"]
    assert (left["bbox"], right["bbox"]) == ([2, 1, 4, 5], [5, 1, 4, 5])
    assert left["bbox_mode"] == BoxMode.XYWH_ABS
    assert [a["category_id"] for a in (left, right)] == [14, 14]
    assert [a["annotation_id"] for a in (left, right)] == [3, 4]
    assert [a["iscrowd"] for a in (left, right)] == [0, 0]
    assert left["segmentation"] == {"size": [6, 10], "counts": "=5100000g0"}


def test_semantic_map(record):
    """Row 0 is sky; the others are grass but for the people in columns 2 to 8."""
    expected = np.full((6, 10), GRASS)
    expected[0] = SKY
    expected[1:, 2:9] = PERSON
    assert np.array_equal(SemSegLabel().read(record), expected)


def test_unlabelled_pixels_are_ignored(load):
    content = miniature()
    del content["annos_segmentation"][1]  # the sky
    sem_seg = SemSegLabel().read(load(content).dataset_dicts[0])
    assert (sem_seg[0] == 255).all() and (sem_seg[1:] != 255).all()


def test_part_map(record):
    expected = rows(
        "0000000000",
        "0001101100",
        "0022220000",
        "0022220000",
        "0000000000",
        "0000000000",
    )
    expected[1, 5] = PartSegLabel().read(record)[1, 5]
    assert np.array_equal(PartSegLabel().read(record), expected)


def test_person_without_parts_is_ignored_where_no_part_is_painted(load):
    content = miniature()
    content["annos_segmentation"][3]["parts"] = [
        {"part_id": 255, "segmentation": {"size": [6, 10], "counts": "o051000005"}}
    ]
    parts = PartSegLabel().read(load(content).dataset_dicts[0])
    assert (parts[1:, 6:9] == 255).all()
    # The left person's torso reaches into column 5, which both masks hold.
    assert (parts[2:4, 2:6] == TORSO).all()
    assert (parts[1, 3:5] == HEAD).all()


def test_no_part_map_without_any_parts(load):
    content = miniature()
    for entry in content["annos_segmentation"]:
        entry.pop("parts")
    record = load(content).dataset_dicts[0]
    assert "part_seg_segments" not in record
    assert PartSegLabel().read(record) is None


def test_boundary_map(record):
    """Row 1 in columns 2 to 5, and column 5 in rows 1 to 5."""
    expected = np.zeros((6, 10))
    expected[1, 2:6] = 1
    expected[1:, 5] = 1
    assert np.array_equal(BoundaryLabel().read(record), expected)


def test_occlusion_map(record):
    """Down along column 5 with label 2: the left person is in front."""
    expected = np.zeros((2, 6, 10))
    expected[0, 1:, 5] = -1
    assert np.allclose(OcclusionLabel().read(record), expected)


def test_image_labels(record):
    assert record["image_labels"] == [PERSON, GRASS, SKY]
    vector = ImageLabels().read(record)
    assert vector.shape == (59,) and vector.sum() == 3 and vector[PERSON] == 1


def test_joints_have_cocos_visibility_and_continuous_coordinates(record):
    left, right = (np.array(a["keypoints"]).reshape(14, 3) for a in record["annotations"])
    assert np.allclose(left[0], [4.0, 1.7, 2])
    assert np.allclose(right[8], [5.9, 2.8, 1])  # 2 in the file: occluded
    assert (left[[4, 5, 6, 7, 9, 10, 11, 12, 13]] == 0).all()
    assert (left[:, 2] > 0).sum() == 5 and (right[:, 2] > 0).sum() == 4
    assert "unmatched_keypoints" not in record


def test_a_file_without_joints_gives_none(load):
    content = miniature()
    del content["annos_joints"]
    loaded = load(content)
    assert loaded.problems == [] and loaded.matches is None
    assert all("keypoints" not in a for a in loaded.dataset_dicts[0]["annotations"])


def test_the_names_are_those_of_the_data_set():
    assert len(STUFF_CLASSES) == 59 and STUFF_CLASSES[:2] == ("aeroplane", "bicycle")
    assert CATEGORY_IDS["tree"] == 420 and CATEGORY_IDS["diningtable"] == 397
    # 26 of the ids do not fit into 8 bits.
    assert sum(category_id > 255 for category_id in CATEGORY_IDS.values()) == 26
    assert len(PART_CLASS_OF_NAME) == 24
    # The official list of names has these two exchanged.
    assert KEYPOINT_NAMES[4:6] == ("left_wrist", "left_hip")
    assert len(KEYPOINT_FLIP_MAP) == 6


def test_metadata_fits_the_ids():
    everything, people = pascal_in_detail_metadata(), pascal_in_detail_metadata(True)
    assert everything["thing_dataset_id_to_contiguous_id"][284] == 14
    assert everything["thing_classes"] == everything["stuff_classes"][:20]
    assert people["thing_dataset_id_to_contiguous_id"] == {284: 0}
    assert len(everything["keypoint_oks_sigmas"]) == len(everything["keypoint_names"]) == 14
    assert len(everything["keypoint_connection_rules"]) == 13


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    reads = []
    loader._pickled_phase.cache_clear()
    original = loader.load_phase
    monkeypatch.setattr(loader, "load_phase", lambda *a: reads.append(a[2]) or original(*a))
    path = write(miniature(), tmp_path)
    first, second = (loader.PascalInDetail("a", path, "images", "train")() for _ in range(2))
    assert reads == ["train"]
    del first[0]["annotations"][0]["bbox"], first[0]["image_labels"]  # a copy of its own
    assert second[0]["annotations"][0]["bbox"] == [2, 1, 4, 5]
    people = loader.PascalInDetail("b", path, "images", "train", person_only=True)()
    assert [a["category_id"] for a in people[0]["annotations"]] == [0, 0]
    assert second[0]["annotations"][0]["category_id"] == 14 and reads == ["train"]
    content = miniature()
    del content["annos_segmentation"][3]
    write(content, tmp_path)
    os.utime(path, ns=(1, 1))  # clocks of file systems may be coarse
    assert len(loader.PascalInDetail("a", path, "images", "train")()[0]["annotations"]) == 1
    assert reads == ["train", "train"]
    with pytest.raises(ValueError, match="there is no such file"):
        loader.PascalInDetail("a", str(tmp_path / "nothing.json"), "images", "train")()


def test_no_more_than_both_phases_are_kept(tmp_path):
    for name in ("a", "b", "c"):
        loader.remembered_phase(write(miniature(), tmp_path, f"{name}.json"), "", "train")
    assert loader._pickled_phase.cache_info().currsize == 2
