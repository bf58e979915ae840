"""What is drawn of a result, and where."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from d2_multitask.runtime import Result, draw, parse_model_info
from d2_multitask.runtime.palette import class_color, object_color
from runtime_support import metadata

INFO = parse_model_info(json.dumps(metadata()), "a.onnx")
GREY = 120


@pytest.fixture
def result() -> Result:
    """One object of 640 x 800 pixels with a left and a right keypoint."""
    return Result(
        (640, 800),
        INFO,
        boxes=np.array([[100, 200, 400, 600]], np.float32),
        scores=np.array([0.8], np.float32),
        classes=np.array([0]),
        keypoints=np.array([[[150, 300, 0.9], [350, 300, 0.9]]], np.float32),
    )


def drawn(result: Result, **options) -> np.ndarray:
    """RGB."""
    image = np.full((*result.image_size, 3), GREY, np.uint8)
    return draw(image, result, **options)[..., ::-1]


def colors(picture: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, picture.reshape(-1, 3).tolist()))


def test_box_skeleton_and_tag(result):
    picture = drawn(result)
    assert picture.shape == (640, 800, 3)
    assert tuple(picture[500, 100]) == object_color(0)  # the left side of the box
    assert tuple(picture[300, 150]) == tuple(picture[300, 350]) == (255, 255, 255)  # keypoints
    assert tuple(picture[300, 250]) == object_color(0)  # the limb
    assert object_color(0) in colors(picture[180:195, 105:200])  # the tag above the box
    assert (picture[400:560, 120:380] == GREY).all()


def test_what_is_not_drawn(result):
    assert colors(drawn(result, confidence_threshold=0.9)) == {(GREY,) * 3}
    picture = drawn(result, keypoint_threshold=0.95)
    assert (picture[210:590, 110:390] == GREY).all()
    result.info = dataclasses.replace(
        INFO, objects=dataclasses.replace(INFO.objects, draw_boxes=False)
    )
    assert (drawn(result)[500, 90:110] == GREY).all()


def test_tracks_have_a_colour_each(result):
    result.track_ids = np.array([3])
    assert tuple(drawn(result)[500, 100]) == object_color(3)


def test_semantic_classes_and_masks_are_transparent(result):
    logits = np.zeros((2, 640, 800), np.float32)
    logits[1, :, 600:] = 1
    logits[0, :, :600] = 1
    result.maps = {"sem_seg": logits}
    result.masks = np.zeros((1, 640, 800), bool)
    result.masks[0, 400:560, 120:380] = True
    picture = drawn(result)
    for (row, column), color in {(100, 700): class_color(0), (500, 300): object_color(0)}.items():
        expected = 0.55 * GREY + 0.45 * np.array(color)
        np.testing.assert_allclose(picture[row, column], expected, atol=1.5)
    assert (picture[100, 500] == GREY).all()


def test_a_foreground_is_tinted(result):
    foreground = np.zeros((640, 800), np.float32)
    foreground[:, 600:] = 0.6
    picture = drawn(Result((640, 800), INFO, maps={"foreground": foreground}))
    assert (picture[100, 500] == GREY).all()
    assert (picture[100, 700] != GREY).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3000), (32, 48)])
def test_images_of_any_size(size):
    result = Result(
        size,
        INFO,
        boxes=np.array([[0, 0, size[1], size[0]]], np.float32),
        scores=np.ones(1, np.float32),
        classes=np.array([1]),
        maps={"sem_seg": np.zeros((2, *size), np.float32)},
        masks=np.ones((1, *size), bool),
    )
    picture = drawn(result)
    assert max(picture.shape) == max(640, *size)
    assert drawn(result, min_long_side=0).shape == (*size, 3)


def test_a_result_without_anything_is_the_image():
    assert colors(drawn(Result((640, 640), INFO))) == {(GREY,) * 3}
