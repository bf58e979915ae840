from __future__ import annotations

import numpy as np

from d2_multitask.tracking import Tracker, TrackerSettings
from d2_multitask.tracking.colours import likeness, limb_colours
from tracking_support import people

SKELETON = np.array([[0, 1], [1, 2]])


def test_colours_of_limbs():
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:20, :, 0], image[20:30, :, 1] = 255, 51
    points = np.array([[[5.0, 10, 1], [5, 20, 1], [5, 30, 1]]])
    np.testing.assert_allclose(limb_colours(image, points, SKELETON), [[[1, 0, 0], [0, 0.2, 0]]])
    outside = points + np.array([1000, -1000, 0])
    assert limb_colours(image, outside, SKELETON).shape == (1, 2, 3)
    assert limb_colours(image, points[:0], SKELETON).shape == (0, 2, 3)


def test_likeness_falls_with_the_difference():
    grey = np.full((1, 2, 3), 0.5)
    others = np.concatenate((grey, grey + 0.05, grey + 0.4))
    (values,) = likeness(grey, others)
    assert values[0] == 1 and values[0] > values[1] > 0.8 and values[2] < 0.01
    assert likeness(np.zeros((2, 0, 3)), np.zeros((3, 0, 3))).tolist() == [[1] * 3] * 2


def picture(xs, colours):
    image = np.full((100, 400, 3), 90, np.uint8)
    for x, colour in zip(xs, colours, strict=True):
        image[20:80, int(x) - 8 : int(x) + 8] = colour
    return image


def test_two_who_meet_and_turn_round_keep_their_identities():
    """Motion says that they crossed, their clothes that they did not."""
    colours = [(200, 30, 30), (30, 30, 200)]
    answers = {}
    for with_image in (True, False):
        tracker = Tracker(settings=TrackerSettings(smoothing=False))
        for step in range(50):
            towards = min(step, 22, 50 - step)
            xs = [100 + 3 * towards, 240 - 3 * towards]
            seen = 0 if 19 <= step < 28 else 2  # something covers both
            image = picture(xs, colours) if with_image else None
            tracked = tracker.update(people(xs[:seen], width=40), image)
        answers[with_image] = tracked.track_ids[np.argsort(tracked.boxes[:, 0])].tolist()
    assert answers == {True: [1, 2], False: [2, 1]}


def test_a_change_of_the_light_loses_nobody():
    tracker = Tracker()
    for step in range(20):
        level = 200 if step % 2 else 40  # a lamp that flickers
        image = np.full((100, 400, 3), level, np.uint8)
        tracked = tracker.update(people([100 + step, 200]), image)
        assert tracked.track_ids.tolist() == [1, 2]
