"""Assignment of objects to cells."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances, Keypoints

from d2_multitask.targets.encode import (
    BatchObjects,
    assign_cells,
    cells_of,
    gather_keypoints,
    gather_objects,
)


def objects_of(boxes: list[list[float]], image_index: list[int], num_images: int) -> BatchObjects:
    yes = torch.ones(num_images, dtype=torch.bool)
    return BatchObjects(
        image_index=torch.tensor(image_index, dtype=torch.long),
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        classes=torch.zeros(len(boxes), dtype=torch.long),
        labelled=yes,
        keypoints_labelled=yes,
    )


@pytest.mark.parametrize(
    ("point", "cell"),
    [
        ((0.0, 0.0), [0, 0]),  # corner
        ((2.99, 1.0), [2, 1]),  # a cell begins at its integer
        ((5.0, 3.0), [4, 2]),  # the far border belongs to the last cell
        ((-0.5, 9.0), [0, 2]),  # outside is brought to the border
    ],
)
def test_cells(point: tuple[float, float], cell: list[int]) -> None:
    assert cells_of(torch.tensor([point]), (3, 5)).tolist() == [cell]


def test_one_cell_an_object() -> None:
    cells = assign_cells(objects_of([[0, 0, 3, 3], [2, 0, 7, 5]], [0, 1], 2), 2, (6, 8))
    assert cells.object_index.tolist() == [0, 1]
    assert cells.image_index.tolist() == [0, 1]
    assert cells.xy.tolist() == [[1, 1], [4, 2]]


def test_a_shared_cell_goes_to_the_smaller_box_whatever_the_order() -> None:
    small, large = [2, 2, 4, 4], [0, 0, 6, 6]
    for boxes, winner in (([small, large], 0), ([large, small], 1)):
        cells = assign_cells(objects_of(boxes, [0, 0], 1), 1, (8, 8))
        assert cells.object_index.tolist() == [winner]


def test_equal_boxes_are_one_object() -> None:
    cells = assign_cells(objects_of([[2, 2, 4, 4]] * 3, [0, 0, 0], 1), 1, (8, 8))
    assert cells.object_index.tolist() == [0]


def test_same_cell_of_two_images_is_not_shared() -> None:
    cells = assign_cells(objects_of([[2, 2, 4, 4]] * 2, [0, 1], 2), 2, (8, 8))
    assert cells.object_index.tolist() == [0, 1]


def test_neighbours_stay_in_the_grid_and_never_take_a_centre() -> None:
    # A large object in the corner, and a small one whose centre is the large one's neighbour.
    boxes = [[-4, -4, 5, 5], [1.2, 0.2, 1.8, 0.8]]
    cells = assign_cells(objects_of(boxes, [0, 0], 1), 1, (4, 4), radius=1)
    owner = {
        tuple(xy): o for xy, o in zip(cells.xy.tolist(), cells.object_index.tolist(), strict=True)
    }
    assert owner[(0, 0)] == 0 and owner[(1, 0)] == 1
    assert all(0 <= x < 4 and 0 <= y < 4 for x, y in owner)
    assert set(owner) == {(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)}
    assert owner[(0, 1)] == owner[(1, 1)] == 1  # contested neighbours go to the smaller box


def test_batch_is_concatenated_in_stride_units() -> None:
    first = Instances((16, 16))
    first.gt_boxes = Boxes(torch.tensor([[4.0, 8.0, 12.0, 16.0]]))
    first.gt_classes = torch.tensor([2])
    first.gt_keypoints = Keypoints(torch.tensor([[[6.0, 10.0, 2.0], [0.0, 0.0, 0.0]]]))
    second = Instances((16, 16))
    second.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 2.0, 2.0]]))
    second.gt_classes = torch.tensor([0, 1])
    objects = gather_objects([first, None, second], 4)
    keypoints = gather_keypoints([first, None, second], 4, num_keypoints=2)
    assert objects.image_index.tolist() == [0, 2, 2]
    assert objects.boxes[0].tolist() == [1, 2, 3, 4]
    assert objects.classes.tolist() == [2, 0, 1]
    assert keypoints[0].tolist() == [[1.5, 2.5, 2.0], [0, 0, 0]]
    assert keypoints[1:].abs().sum() == 0
    assert objects.labelled.tolist() == [True, False, True]
    assert objects.keypoints_labelled.tolist() == [True, False, False]
    # The labels of the batch must not be scaled in place.
    assert first.gt_keypoints.tensor[0, 0].tolist() == [6, 10, 2]


def test_wrong_number_of_joints_is_named() -> None:
    instances = Instances((16, 16))
    instances.gt_boxes = Boxes(torch.zeros(1, 4))
    instances.gt_classes = torch.zeros(1, dtype=torch.long)
    instances.gt_keypoints = Keypoints(torch.zeros(1, 11, 3))
    with pytest.raises(ValueError, match="found 11 keypoints.*NUM_KEYPOINTS = 17"):
        gather_keypoints([instances], 4, num_keypoints=17)
