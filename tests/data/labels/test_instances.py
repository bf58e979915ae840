from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from d2_multitask.data.labels.instances import WRONG_KEYPOINTS, InstanceBuilder
from d2_multitask.data.labels.sem_seg import MASK_NOT_DECODED
from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.data.transforms.crops import ScaleCropTransform

H, W = 20, 30
SIZE = (H, W)
IDENTITY = T.TransformList([T.NoOpTransform()])
HFLIP = T.TransformList([T.HFlipTransform(W)])
# Joints: nose, left hand, right hand.
FLIP_INDICES = [0, 2, 1]


def _object(x1=5, y1=4, x2=15, y2=14, **fields):
    return {
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
    } | fields


def _rectangle(x1, y1, x2, y2):
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def _window(x, y, scale=1.0, output=SIZE):
    """Cuts out the window whose corner is (x, y)."""
    return T.TransformList([ScaleCropTransform((scale, scale), (x, y), output)])


def _build(annotations, transforms=IDENTITY, size=SIZE, **kwargs):
    builder = InstanceBuilder(**{"hflip_indices": FLIP_INDICES, **kwargs})
    return builder(annotations, transforms, SIZE, size, where="a.png")


def test_boxes_and_classes():
    instances, ignore = _build([_object(), _object(0, 0, 30, 20, category_id=3)])
    assert instances.image_size == SIZE
    assert instances.gt_boxes.tensor.tolist() == [[5, 4, 15, 14], [0, 0, 30, 20]]
    assert instances.gt_classes.tolist() == [0, 3]
    assert ignore is None


def test_box_modes_may_be_mixed():
    other = _object() | {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYXY_ABS}
    instances, _ = _build([_object(), other])
    assert instances.gt_boxes.tensor.tolist() == [[5, 4, 15, 14], [1, 2, 3, 4]]


def test_horizontal_flip_swaps_the_sides():
    person = _object(keypoints=[6, 5, 2, 7, 6, 1, 14, 13, 2])
    instances, _ = _build([person, _object(20, 0, 30, 10)], HFLIP)
    assert instances.gt_boxes.tensor.tolist() == [[15, 4, 25, 14], [0, 0, 10, 10]]
    expected = [[24, 5, 2], [16, 13, 2], [23, 6, 1]]
    assert instances.gt_keypoints.tensor.tolist() == [expected, [[0, 0, 0]] * 3]


@pytest.mark.parametrize(
    ("flips", "swapped"),
    [
        pytest.param([T.VFlipTransform(H)], True, id="vertical flip mirrors too"),
        pytest.param([T.VFlipTransform(H), T.HFlipTransform(W)], False, id="half a turn does not"),
        pytest.param([T.HFlipTransform(W), T.HFlipTransform(W)], False, id="twice is not at all"),
    ],
)
def test_sides_are_swapped_if_the_image_is_mirrored(flips, swapped):
    person = _object(keypoints=[6, 5, 2, 7, 6, 1, 14, 13, 2])
    instances, _ = _build([person], T.TransformList(flips))
    left, right = instances.gt_keypoints.tensor[0, 1:, 2].tolist()
    assert (left, right) == ((2, 1) if swapped else (1, 2))


@pytest.mark.parametrize(
    ("annotations", "present"),
    [
        pytest.param([_object()], False, id="nobody carries joints: not labelled"),
        pytest.param([_object(keypoints=[0] * 9)], True, id="joints, none visible: labelled"),
        pytest.param([_object(), _object(keypoints=[6, 5, 2] * 3)], True, id="not only the first"),
        pytest.param([], True, id="no object: nothing is missing"),
        pytest.param([_object(iscrowd=1)], False, id="only a crowd: its joints are not known"),
    ],
)
def test_joints_field_says_whether_the_image_is_labelled(annotations, present):
    instances, _ = _build(annotations)
    assert instances.has("gt_keypoints") == present
    if present:
        assert instances.gt_keypoints.tensor.shape == (len(instances), 3, 3)


def test_without_joint_names_there_are_no_joints():
    instances, _ = _build([_object(keypoints=[6, 5, 2] * 3)], hflip_indices=None)
    assert not instances.has("gt_keypoints")


def test_joints_outside_of_the_window_are_known_to_be_elsewhere():
    person = _object(keypoints=[5.5, 4.5, 2, 9.5, 8.5, 1, 14.5, 13.5, 2])
    instances, _ = _build([person], _window(7, 0, output=(20, 7)), size=(20, 7))
    assert instances.gt_keypoints.tensor[0].tolist() == [[0, 0, -1], [2.5, 8.5, 1], [0, 0, -1]]
    assert instances.gt_boxes.tensor.tolist() == [[0, 4, 7, 14]]


def test_no_labelled_joint_lies_on_the_far_edge():
    person = _object(keypoints=[W, 4, 2, 5, H, 2, 0, 0, 2])
    instances, _ = _build([person])
    assert instances.gt_keypoints.tensor[0, :, 2].tolist() == [-1, -1, 2]


def test_unlabelled_joints_stay_unlabelled_in_a_flip():
    person = _object(keypoints=[5, 5, 0, 6, 5, 2, -3, 5, 2])
    instances, _ = _build([person], HFLIP, hflip_indices=[1, 0, 2])
    assert instances.gt_keypoints.tensor[0, :, 2].tolist() == [2, 0, -1]


def test_wrong_number_of_joints_costs_only_the_joints():
    instances, _ = _build([_object(keypoints=[1, 2, 2]), _object(keypoints=[6, 5, 2] * 3)])
    assert len(instances) == 2
    assert instances.gt_keypoints.tensor[:, :, 2].tolist() == [[0, 0, 0], [2, 2, 2]]
    assert DATA_REPORT.counts == {WRONG_KEYPOINTS: 1}


def test_crowds_are_ignored_not_learnt():
    crowd = _object(iscrowd=1, segmentation=_rectangle(6, 5, 8, 7))
    box_only = _object(20, 0, 22, 2, iscrowd=1)
    instances, ignore = _build([_object(0, 0, 4, 4), crowd, box_only], HFLIP)
    assert len(instances) == 1
    expected = np.zeros(SIZE, bool)
    expected[5:7, 22:24] = True
    expected[0:2, 8:10] = True
    np.testing.assert_array_equal(ignore, expected)


def test_padding_is_not_ignored():
    crowd = _object(iscrowd=1, segmentation=_rectangle(0, 0, 2, 2))
    _, ignore = _build([crowd], _window(-3, -3))
    assert ignore.sum() == 4 and ignore[3:5, 3:5].all()


@pytest.mark.parametrize(
    ("x", "kept", "ignored"),
    [
        pytest.param(14, 1, 0, id="a tenth is seen: learnt"),
        pytest.param(14.6, 0, 10, id="less than a pixel is seen: ignored"),
        pytest.param(15, 0, 0, id="nothing is seen: gone"),
        pytest.param(40, 0, 0, id="far outside: gone"),
    ],
)
def test_objects_at_the_edge_of_the_window(x, kept, ignored):
    instances, ignore = _build([_object(keypoints=[6, 5, 2] * 3)], _window(x, 0))
    assert len(instances) == kept
    assert len(instances.gt_keypoints.tensor) == kept
    assert (0 if ignore is None else ignore.sum()) == ignored


def test_a_small_part_of_a_large_object_is_ignored():
    person = _object(0, 0, 30, 20)
    instances, ignore = _build([person], _window(27, 0, scale=4), min_visible=0.15)
    assert len(instances) == 0
    # 3 of 30 pixels are seen, and five rows of 20, both four times as large.
    assert ignore[:, :12].all() and not ignore[:, 12:].any()


def test_a_small_object_is_kept():
    instances, ignore = _build([_object(5, 5, 8, 8)], _window(0, 0, scale=0.1))
    assert len(instances) == 1 and ignore is None


def test_masks_only_if_asked():
    person = _object(segmentation=_rectangle(6, 5, 8, 7))
    assert not _build([person])[0].has("gt_masks")
    instances, _ = _build([person, _object()], HFLIP, load_masks=True)
    masks = instances.gt_masks.tensor.numpy()
    assert masks.shape == (2, *SIZE)
    assert masks[0].sum() == 4 and masks[0, 5:7, 22:24].all()
    assert not masks[1].any()  # no mask is labelled


def test_no_masks_if_nobody_carries_one():
    assert not _build([_object()], load_masks=True)[0].has("gt_masks")


def test_undecodable_mask_costs_only_the_mask():
    person = _object(segmentation={"size": [W, H], "counts": [0, H * W]})
    instances, _ = _build([person], load_masks=True)
    assert len(instances) == 1 and not instances.gt_masks.tensor.any()
    assert DATA_REPORT.counts == {MASK_NOT_DECODED: 1}


def test_annotations_are_not_changed():
    person = _object(keypoints=[6, 5, 2, 7, 6, 1, 14, 13, 2])
    _build([person], HFLIP)
    assert person["keypoints"] == [6, 5, 2, 7, 6, 1, 14, 13, 2]
    assert person["bbox"] == [5, 4, 10, 10]
