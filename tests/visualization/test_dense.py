from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import Metadata

from d2_multitask.visualization.dense import (
    BACK_COLOR,
    FRONT_COLOR,
    PART_COLORS,
    draw_boundary,
    draw_dense,
    draw_foreground,
    draw_image_labels,
    draw_occlusion,
    draw_parts,
)

IMAGE = np.full((60, 80, 3), 128, np.uint8)


def distance(pixel, color):
    return np.abs(pixel.astype(int) - np.array(color)).sum()


def field(x):
    """A vertical boundary in column 40; the front object on the side of ``x``."""
    occlusion = np.zeros((2, 60, 80), np.float32)
    occlusion[0, 10:50, 40] = x
    return occlusion


def test_the_side_in_front_is_orange_and_the_other_blue():
    for x in (1, -1):
        picture = draw_occlusion(IMAGE, field(x))
        # Between two arrows the shading is seen; look at the median along the line.
        front = np.median(picture[12:48, 40 + 2 * x], axis=0)
        back = np.median(picture[12:48, 40 - 3 * x], axis=0)
        assert distance(front, FRONT_COLOR) < distance(front, BACK_COLOR)
        assert distance(back, BACK_COLOR) < distance(back, FRONT_COLOR)


def test_predicted_directions_are_drawn_in_the_middle_of_probable_boundaries():
    """A boundary 7 columns wide, and an improbable one elsewhere."""
    predicted = np.zeros((2, 60, 80), np.float32)
    predicted[0, 10:50, 37:44] = 0.9
    predicted[1, 10:50, 5:20] = 0.3
    wide = draw_occlusion(IMAGE, predicted)
    thin = draw_occlusion(IMAGE, field(0.9))
    assert np.array_equal(wide[20:40, :30], thin[20:40, :30])
    shaded = np.abs(wide[30].astype(int) - thin[30, 0]).sum(axis=-1) > 0
    assert 0 < shaded.sum() < 24
    assert np.flatnonzero(shaded).mean() == pytest.approx(40, abs=3)


def test_no_occlusion_is_the_dimmed_image():
    picture = draw_occlusion(IMAGE, np.zeros((2, 30, 40), np.float32))
    assert picture.shape == IMAGE.shape and len(np.unique(picture)) == 1


def test_parts_have_their_colours_from_ids_and_from_scores():
    ids = np.zeros((60, 80), np.int64)
    ids[:, 20:40], ids[:, 40:60], ids[:, 60:] = 1, 6, 255
    picture = draw_parts(IMAGE, torch.from_numpy(ids))
    for column, part in ((30, 1), (50, 6)):
        shades = [distance(picture[30, column], color) for color in PART_COLORS]
        assert int(np.argmin(shades)) == part - 1
    assert np.array_equal(picture[:, :15], IMAGE[:, :15])
    assert len(np.unique(picture[:, 65:75])) == 2  # hatched
    scores = torch.nn.functional.one_hot(torch.from_numpy(ids % 250), 7).permute(2, 0, 1).float()
    assert np.array_equal(draw_parts(IMAGE, scores)[:, :55], picture[:, :55])


def test_foreground_stands_out_from_labels_and_from_probabilities():
    labels = np.zeros((60, 80), np.int64)
    labels[:, 20:50], labels[:, 60:] = 1, 255
    picture = draw_foreground(IMAGE, labels)
    inside, outside = picture[30, 35].astype(int), picture[30, 5].astype(int)
    assert (outside < 64).all() and inside[2] > inside[0] > outside[0]  # tinted blue
    assert len(np.unique(picture[:, 65:75])) == 2  # hatched
    probability = np.where(labels == 1, 0.8, 0.3)
    assert np.array_equal(draw_foreground(IMAGE, probability)[:, :55], picture[:, :55])
    small = draw_foreground(IMAGE, probability[::2, ::2])
    assert np.array_equal(small[:, 22:48], picture[:, 22:48])


def test_boundaries_are_as_bright_as_they_are_certain():
    boundary = np.zeros((60, 80))
    boundary[:, 20], boundary[:, 40], boundary[:, 70:] = 1.0, 0.4, 255
    picture = draw_boundary(IMAGE, boundary)
    line, weak, nothing = (int(picture[30, column, 0]) for column in (20, 40, 10))
    assert line == 255 > weak > nothing


def test_names_of_present_classes_are_written():
    none = draw_image_labels(IMAGE, np.zeros(3), ["a", "b", "c"])
    one = draw_image_labels(IMAGE, np.array([0, 1, 0]), ["a", "b", "c"])
    sure = draw_image_labels(IMAGE, np.array([0, 0.9, 0.2]), None)
    assert len(np.unique(none)) == 1
    assert len(np.unique(one)) > 1 and (one != sure).any()


def test_one_picture_for_each_label_that_there_is():
    entry = {"boundary": torch.zeros(60, 80), "image_labels": torch.ones(2), "instances": None}
    pictures = draw_dense(IMAGE, entry, Metadata(stuff_classes=["a", "b"]), min_long_side=160)
    assert list(pictures) == ["boundary", "classes"]
    assert {picture.shape for picture in pictures.values()} == {(120, 160, 3)}
    assert draw_dense(IMAGE, {"sem_seg": torch.zeros(2, 60, 80)}) == {}
