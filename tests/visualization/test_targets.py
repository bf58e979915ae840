"""Pictures of labels: the mapper's dicts, a dataset's own annotations, the heads' maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode

from d2_multitask.visualization import style
from d2_multitask.visualization.metadata import picture_metadata
from d2_multitask.visualization.targets import (
    draw_dataset_dict,
    draw_labels,
    draw_map,
    rgb_image,
)
from support import labelled_image

METADATA = picture_metadata(num_classes=1, num_keypoints=2)
AS_IS = {"min_long_side": 1}


def annotation(**changes):
    return {
        "bbox": [20, 20, 60, 40],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
        **changes,
    }


@pytest.mark.parametrize(("input_format", "expected"), [("BGR", [3, 2, 1]), ("RGB", [1, 2, 3])])
def test_rgb_image_follows_the_input_format(input_format, expected):
    image = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None].expand(3, 4, 5)
    assert rgb_image({"image": image}, input_format)[0, 0].tolist() == expected


def test_all_labels_of_the_mapper_are_drawn():
    entry = labelled_image(96, 128)
    entry["ignore_mask"] = torch.zeros(96, 128, dtype=torch.bool)
    entry["ignore_mask"][60:, 80:] = True
    picture = draw_labels(entry, min_long_side=256)
    bare = draw_labels({"image": entry["image"]}, min_long_side=256)
    assert picture.shape == bare.shape == (192, 256, 3)
    assert (picture[130:, 180:] != bare[130:, 180:]).any()  # hatched
    assert (picture[:100, :60] != bare[:100, :60]).any()  # a person


@pytest.mark.parametrize("missing", ["instances", "sem_seg", "gt_keypoints"])
def test_a_missing_label_is_not_drawn_and_not_missed(missing):
    entry = labelled_image(96, 128)
    if missing == "gt_keypoints":
        entry["instances"].remove("gt_keypoints")
    else:
        del entry[missing]
    assert draw_labels(entry).dtype == np.uint8


def test_an_occluded_joint_is_a_ring():
    entry = labelled_image(200, 200, ((20, 20, 180, 180),), num_keypoints=2, sem_seg=False)
    entry["image"] = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    entry["instances"].gt_keypoints.tensor[0] = torch.tensor([[60.0, 100, 2], [140, 100, 1]])
    picture = draw_labels(entry, METADATA, **AS_IS)
    assert picture[100, 60].min() > 200  # white: visible
    assert picture[100, 140].max() < 60  # dark: occluded


def test_objects_with_and_without_masks_and_joints_share_an_image():
    dataset_dict = {
        "file_name": "a.png",
        "annotations": [
            annotation(),
            annotation(segmentation=[[100, 100, 180, 100, 180, 180, 100, 180]]),
            annotation(keypoints=[30, 30, 2, 50, 40, 2]),
            annotation(keypoints=[1, 2, 3]),  # a wrong number of keypoints
        ],
    }
    image = np.zeros((200, 200, 3), np.uint8)
    picture = draw_dataset_dict(image, dataset_dict, METADATA, **AS_IS)
    # The second object's mask has the second colour at 35 %.
    expected = [0.35 * c for c in style.object_color(1)]
    assert np.abs(picture[140, 140] - expected).max() <= 1
    assert not image.any()


def test_a_crowd_is_hatched_by_its_box_if_it_has_no_mask():
    dataset_dict = {"file_name": "a.png", "annotations": [annotation(iscrowd=1)]}
    picture = draw_dataset_dict(np.zeros((200, 200, 3), np.uint8), dataset_dict, METADATA, **AS_IS)
    assert (picture[20:60, 20:80] > 0).all()
    assert not picture[100:].any()


def test_a_broken_mask_is_a_warning(caplog):
    dataset_dict = {
        "file_name": "broken.png",
        "annotations": [annotation(segmentation={"size": [3, 3], "counts": "abc"})],
    }
    picture = draw_dataset_dict(np.zeros((200, 200, 3), np.uint8), dataset_dict, METADATA)
    assert picture.any()  # the box
    assert "broken.png" in caplog.text


def test_a_semantic_map_replaces_the_masks():
    dataset_dict = {
        "file_name": "a.png",
        "annotations": [annotation(segmentation=[[100, 100, 180, 100, 180, 180, 100, 180]])],
    }
    sem_seg = np.zeros((200, 200), np.int64)
    sem_seg[150:, :50] = 1
    picture = draw_dataset_dict(
        np.zeros((200, 200, 3), np.uint8), dataset_dict, METADATA, sem_seg=sem_seg, **AS_IS
    )
    assert picture[180, 20].any()
    assert not picture[140, 140].any()


def test_an_image_without_labels_is_drawn_as_it_is():
    image = np.full((100, 100, 3), 50, np.uint8)
    picture = draw_dataset_dict(image, {"file_name": "a.png"}, METADATA, **AS_IS)
    assert (picture == 50).all()


def test_a_map_is_laid_over_the_unpadded_part_of_the_grid():
    # Stride 4, 64 x 96 padded from 60 x 80: the cell (x 15, y 10) is pixels 60..63 x 40..43.
    values = torch.zeros(16, 24)
    values[10, 15] = 1
    values[:, 20:] = 1  # padding, from pixel 80 on
    picture = draw_map(np.zeros((60, 80, 3), np.uint8), values, (64, 96), **AS_IS)
    assert picture.shape == (60, 80, 3)
    brightness = picture.astype(int).sum(2)
    assert brightness[42, 62] > 300
    assert brightness[42, 40] == 0
    assert brightness[5, 70] == 0
