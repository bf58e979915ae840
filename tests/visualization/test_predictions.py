"""Overlays of results: what is drawn where, in which colour, above which threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from d2_multitask.visualization import style
from d2_multitask.visualization.predictions import (
    blend_class_map,
    class_map,
    confident,
    draw_result,
    drawn_results,
)

# Small canvases are not enlarged in these tests, so that pixels can be named.
AS_IS = {"min_long_side": 1}
TWO_JOINTS = Metadata(
    thing_classes=["dog"],
    keypoint_names=["head", "tail"],
    keypoint_connection_rules=[("head", "tail", (255, 0, 0))],
)


def black(height: int = 300, width: int = 400) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def objects(boxes, scores, keypoints=None, image_hw=(300, 400)) -> Instances:
    instances = Instances(image_hw)
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.zeros(len(scores), dtype=torch.long)
    if keypoints is not None:
        instances.pred_keypoints = torch.as_tensor(keypoints, dtype=torch.float32)
    return instances


def is_color(pixel: np.ndarray, color: tuple[int, int, int], tolerance: int = 40) -> bool:
    return bool(np.abs(pixel.astype(int) - np.array(color)).max() <= tolerance)


def test_a_box_is_drawn_at_its_edges_in_the_objects_colour():
    picture = draw_result(
        black(), {"instances": objects([[100, 80, 300, 250]], [0.9])}, TWO_JOINTS, **AS_IS
    )
    color = style.object_color(0)
    assert picture.shape == (300, 400, 3)
    for y, x in [(150, 100), (150, 300), (250, 200)]:
        window = picture[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
        assert any(is_color(pixel, color) for pixel in window), (y, x)
    assert (picture[150:200, 150:250] == 0).all()  # nothing inside
    assert (picture[270:, :] == 0).all()  # nothing outside


@pytest.mark.parametrize(
    ("scores", "num_drawn"),
    [
        pytest.param([0.9, 0.8], 2, id="both"),
        pytest.param([0.9, 0.1], 1, id="one-below"),
        pytest.param([0.3, 0.29], 1, id="threshold-included"),
        pytest.param([0.1, 0.1], 0, id="none"),
    ],
)
def test_objects_below_the_confidence_threshold_are_left_out(scores, num_drawn):
    result = {"instances": objects([[20, 20, 100, 100], [220, 120, 380, 280]], scores)}
    picture = draw_result(black(), result, TWO_JOINTS, confidence_threshold=0.3, **AS_IS)
    drawn = [picture[:, :200].any(), picture[:, 200:].any()]
    assert sum(map(bool, drawn)) == num_drawn


def test_boxes_can_be_left_out():
    result = {"instances": objects([[100, 80, 300, 250]], [0.9])}
    assert not draw_result(black(), result, TWO_JOINTS, draw_boxes=False, **AS_IS).any()


def test_a_limb_joins_its_joints_in_the_objects_colour():
    keypoints = [[[60, 150, 0.9], [340, 150, 0.9]]]
    result = {"instances": objects([[50, 100, 350, 200]], [0.9], keypoints)}
    picture = draw_result(black(), result, TWO_JOINTS, draw_boxes=False, **AS_IS)
    assert is_color(picture[150, 200], style.object_color(0))
    assert is_color(picture[150, 60], (255, 255, 255))  # the keypoint
    assert (picture[130, :] == 0).all()


def test_a_weak_joint_takes_its_limb_along():
    keypoints = [[[60, 150, 0.9], [340, 150, 0.05]]]
    result = {"instances": objects([[50, 100, 350, 200]], [0.9], keypoints)}
    picture = draw_result(
        black(), result, TWO_JOINTS, keypoint_threshold=0.1, draw_boxes=False, **AS_IS
    )
    assert picture[150, 60].any()
    assert not picture[150, 200].any()
    assert not picture[150, 340].any()


def test_a_small_image_is_enlarged_and_its_boxes_with_it():
    image = black(75, 100)
    result = {"instances": objects([[25, 25, 75, 60]], [0.9], image_hw=(75, 100))}
    picture = draw_result(image, result, TWO_JOINTS, min_long_side=400)
    assert picture.shape == (300, 400, 3)
    assert is_color(picture[170, 100], style.object_color(0)) or is_color(
        picture[170, 101], style.object_color(0)
    )
    assert not picture[170, 200].any()


def test_two_classes_tint_the_foreground_only():
    sem_seg = torch.zeros(2, 300, 400)
    sem_seg[1, 100:200, 100:200] = 5
    sem_seg[0] += 1
    picture = draw_result(black(), {"sem_seg": sem_seg}, **AS_IS)
    expected = [0.45 * c for c in style.class_color(0)]
    assert np.abs(picture[150, 150] - expected).max() <= 1
    assert not picture[250, 300].any()


def test_masks_have_the_objects_colours_instead_of_their_classes():
    instances = objects([[0, 0, 10, 10], [0, 0, 10, 10]], [0.8, 0.9])
    instances.pred_masks = torch.zeros(2, 300, 400, dtype=torch.bool)
    instances.pred_masks[0, 150:250, 150:250] = instances.pred_masks[1, 50:100, 300:350] = True
    sem_seg = torch.zeros(2, 300, 400)
    sem_seg[1, 100:200] = 5
    result = {"instances": instances, "sem_seg": sem_seg}
    picture = draw_result(black(), result, draw_boxes=False, **AS_IS)
    # The best object has the first colour; a semantic class is seen where no mask is.
    colors = [style.object_color(0), style.object_color(1), style.class_color(0), (0, 0, 0)]
    for place, color in zip([(75, 325), (175, 200), (150, 50), (20, 20)], colors, strict=True):
        assert np.abs(picture[place] - np.multiply(color, 0.45)).max() <= 1


def test_class_map_resizes_scores_not_classes():
    # Two cells, scores 1 and -1: the border of the enlarged map is in the middle.
    sem_seg = torch.tensor([[[0.0, 0.0]], [[1.0, -1.0]]])
    assert class_map(sem_seg, (1, 8)).tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]


def test_a_class_map_without_background_is_tinted_everywhere():
    metadata = Metadata(stuff_classes=["sky", "road"])
    classes = np.zeros((40, 60), np.int64)
    assert blend_class_map(black(40, 60), classes, metadata)[20, 30].any()


def test_ignored_pixels_are_hatched():
    metadata = Metadata(stuff_classes=["background", "person"])
    classes = np.full((40, 60), 255)
    hatched = blend_class_map(black(40, 60), classes, metadata)
    assert hatched.min() > 0
    assert (np.ptp(hatched, axis=2) == 0).all()  # grey


@pytest.mark.parametrize(
    "result",
    [
        pytest.param({}, id="no-task"),
        pytest.param({"instances": objects([], [])}, id="no-object"),
        pytest.param({"instances": objects([], [], np.zeros((0, 17, 3)))}, id="no-skeleton"),
    ],
)
def test_nothing_found_leaves_the_image(result):
    image = np.full((300, 400, 3), 77, np.uint8)
    assert (draw_result(image, result, **AS_IS) == 77).all()
    assert image.max() == 77


def test_joints_far_outside_do_not_change_the_picture_size():
    keypoints = [[[-900, 150, 0.9], [5000, 150, 0.9]]]
    result = {"instances": objects([[50, 100, 350, 200]], [0.9], keypoints)}
    picture = draw_result(black(), result, TWO_JOINTS, **AS_IS)
    assert picture.shape == (300, 400, 3)
    assert is_color(picture[150, 200], style.object_color(0))


def test_any_number_of_joints_can_be_drawn_without_names():
    keypoints = torch.rand(1, 5, 3).mul(200).tolist()
    result = {"instances": objects([[50, 100, 350, 200]], [0.9], keypoints)}
    assert draw_result(black(), result, TWO_JOINTS, **AS_IS).any()


def test_the_same_result_gives_the_same_picture():
    result = {"instances": objects([[20, 20, 100, 100], [60, 60, 200, 200]], [0.5, 0.6])}
    first, second = (draw_result(black(), result, TWO_JOINTS, **AS_IS) for _ in range(2))
    assert (first == second).all()


def test_confident_sorts_and_filters():
    chosen = confident(objects([[0, 0, 1, 1]] * 3, [0.2, 0.9, 0.5]), 0.4)
    assert chosen.scores.tolist() == pytest.approx([0.9, 0.5])


def test_labels_name_the_class_only_if_there_are_several():
    instances = objects([[0, 0, 1, 1]], [0.934])
    two = Metadata(thing_classes=["dog", "cat"])
    assert drawn_results(instances, TWO_JOINTS, 0.1).labels == ["93%"]
    assert drawn_results(instances, two, 0.1).labels == ["dog 93%"]
