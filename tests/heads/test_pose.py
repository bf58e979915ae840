"""Joints where only some classes have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import ImageList

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels
from d2_multitask.heads.base import Decoded
from d2_multitask.heads.pose import PoseHead
from d2_multitask.targets.decode import Peaks
from support import TinyBackbone, labelled_image

PERSON, CHAIR = 2, 5
# A person in the left half, a chair in the right half of 64x48 pixels; stride 4.
BOXES = ((0.0, 0.0, 24.0, 64.0), (24.0, 0.0, 48.0, 64.0))
LEFT, RIGHT = (..., slice(0, 6)), (..., slice(6, 12))


def pose_head(classes: list[int]) -> PoseHead:
    cfg = get_multitask_cfg()
    cfg.MODEL.POSE_HEAD.KEYPOINT_CLASSES = classes
    cfg.MODEL.CENTER_HEAD.NUM_CLASSES = 6
    return PoseHead(cfg, TinyBackbone().output_shape())


def labels_of(entry: dict[str, Any]) -> BatchLabels:
    return BatchLabels([entry], ImageList(torch.zeros(1, 3, 64, 48), [(64, 48)]))


def valid_cells(head: PoseHead, person_labelled: bool) -> torch.Tensor:
    """(h, w) bool, where joint heatmaps learn; the chair has zeros, as the mapper gives it."""
    entry: dict[str, Any] = labelled_image(64, 48, BOXES)
    entry["instances"].gt_classes = torch.tensor([PERSON, CHAIR])
    entry["instances"].gt_keypoints.tensor[1] = 0
    if not person_labelled:
        entry["instances"].gt_keypoints.tensor[0] = 0
    targets = head.targets(labels_of(entry))
    return targets["valid"].expand(1, 17, 16, 12)[0].all(0)


def test_boxes_of_classes_without_joints_teach_that_there_are_none() -> None:
    valid = valid_cells(pose_head([PERSON]), person_labelled=True)
    assert valid.all()
    valid = valid_cells(pose_head([PERSON]), person_labelled=False)
    assert not valid[LEFT].any() and valid[RIGHT].all()


def test_by_default_every_class_has_joints() -> None:
    valid = valid_cells(pose_head([]), person_labelled=True)
    assert valid[LEFT].all() and not valid[RIGHT].any()


def test_objects_of_classes_without_joints_get_zeros() -> None:
    classes = torch.tensor([[PERSON, CHAIR, PERSON]])
    generator = torch.Generator().manual_seed(0)
    features = {"p2": torch.rand(1, 8, 16, 12, generator=generator)}
    found = {}
    for name, keypoint_classes in (("all", []), ("people", [PERSON])):
        torch.manual_seed(0)
        head = pose_head(keypoint_classes)
        xy = torch.tensor([[[3, 4], [8, 4], [5, 9]]])
        decoded = Decoded(peaks=Peaks(torch.ones(1, 3), classes, xy), objects={})
        decoded.objects["pred_classes"] = classes
        with torch.no_grad():
            head.inference(head.layers(features), None, decoded)
        found[name] = decoded.objects["pred_keypoints"]
    assert (found["people"][:, 1] == 0).all()
    torch.testing.assert_close(found["people"][:, [0, 2]], found["all"][:, [0, 2]])
    assert (found["all"][:, 1] != 0).any()


def test_classes_that_there_are_not() -> None:
    message = r"POSE_HEAD.KEYPOINT_CLASSES: found \[14\], expected ids of the network's 6 .* 0 to 5"
    with pytest.raises(ValueError, match=message):
        pose_head([2, 14])


def joint_validity(labelled: list[int], in_set: list[int] | None = None) -> torch.Tensor:
    """(K, h, w) bool of one image with one person, in the left half, whose joints are given."""
    entry: dict[str, Any] = labelled_image(64, 48, BOXES[:1])
    visibility = entry["instances"].gt_keypoints.tensor[..., 2]
    visibility.zero_()[:, labelled] = 2
    if in_set is not None:
        entry["labelled_keypoints"] = torch.isin(torch.arange(17), torch.tensor(in_set))
    targets = pose_head([]).targets(labels_of(entry))
    return targets["valid"].expand(1, 17, 16, 12)[0]


def test_joint_types_that_no_person_labels_cost_nothing() -> None:
    valid = joint_validity([0, 3])
    assert valid[[0, 3]].all()
    assert not valid[[1, 2, *range(4, 17)]].any()


def test_joint_types_that_the_set_does_not_label_cost_nothing() -> None:
    valid = joint_validity([], in_set=[0, 1])
    assert not valid[2:].any()
    assert not valid[:2, :, :6].any()  # an unlabelled person is there
    assert valid[:2, :, 6:].all()


def test_joint_that_was_cut_off_is_learned_as_absent() -> None:
    """It is labelled, elsewhere: nothing about it is unknown, neither in its box nor beside it."""
    entry: dict[str, Any] = labelled_image(64, 48, BOXES[:1])
    entry["instances"].gt_keypoints.tensor[0, 5] = torch.tensor([0.0, 0.0, -1.0])
    targets = pose_head([]).targets(labels_of(entry))
    assert targets["valid"].all() and targets["keypoint_heatmap"][0, 5].max() == 0
    assert targets["keypoint_weight"][0, 5] == 0


def test_joint_of_visibility_0_costs_nothing_inside_its_box() -> None:
    entry: dict[str, Any] = labelled_image(64, 48, BOXES)
    entry["instances"].gt_keypoints.tensor[..., 2] = 2
    entry["instances"].gt_keypoints.tensor[0, 5, 2] = 0
    targets = pose_head([]).targets(labels_of(entry))
    valid = targets["valid"].expand(1, 17, 16, 12)[0]
    inside = valid[5][LEFT] & (targets["keypoint_heatmap"][0, 5][LEFT] != 1)
    assert not inside.any() and valid[5][RIGHT].all()
    assert valid[[*range(5), *range(6, 17)]].all()
