"""Identities of people who walk, cross, hide and leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from d2_multitask.runtime.result import Result
from d2_multitask.tracking import Tracker, TrackerSettings
from tracking_support import model_info, people

PLAIN = TrackerSettings(smoothing=False)


def ids(tracker: Tracker, result: Result) -> list[int]:
    """Identities by place from left to right."""
    tracked = tracker.update(result)
    return tracked.track_ids[np.argsort(tracked.boxes[:, 0])].tolist()


def test_identities_last_whatever_the_order_of_detections():
    tracker = Tracker(settings=PLAIN)
    assert ids(tracker, people([50, 150, 250])) == [1, 2, 3]
    for step in range(1, 10):
        shuffled = np.roll([50 + step, 150 - step, 250 + 2 * step], step)
        assert ids(tracker, people(shuffled)) == [1, 2, 3]


@pytest.mark.parametrize("keypoints", [True, False])
def test_people_who_cross_keep_theirs(keypoints):
    tracker = Tracker(settings=PLAIN)
    for step in range(40):
        xs = [100 + 3 * step, 220 - 3 * step]
        hidden = abs(xs[0] - xs[1]) < 8  # one covers the other
        tracked = tracker.update(people(xs[:1] if hidden else xs, keypoints=keypoints))
    assert tracked.boxes[:, 0].argmax() == tracked.track_ids.tolist().index(1)
    assert sorted(tracked.track_ids) == [1, 2]


def test_a_lost_track_is_found_where_it_went_until_it_is_given_up():
    for gap, expected in ((20, [1]), (60, [])):
        tracker = Tracker(fps=25, settings=PLAIN)  # keeps tracks 50 frames
        for step in range(10):
            assert ids(tracker, people([50 + 2 * step])) == [1]
        for _ in range(gap):
            assert ids(tracker, people([])) == []
        assert ids(tracker, people([50 + 2 * (10 + gap)])) == expected


def test_a_weak_detection_continues_a_track_and_begins_none():
    tracker = Tracker(settings=PLAIN)
    assert ids(tracker, people([50])) == [1]
    assert ids(tracker, people([51, 300], [0.25, 0.25])) == [1]
    assert ids(tracker, people([52, 300], [0.05, 0.25])) == []
    assert ids(tracker, people([53])) == [1]


def test_a_new_track_needs_a_second_frame():
    tracker = Tracker(settings=PLAIN)
    tracker.update(people([50]))
    assert ids(tracker, people([50, 300])) == [1]  # maybe a wrong detection
    assert ids(tracker, people([50])) == [1]
    assert ids(tracker, people([50, 300])) == [1]
    assert ids(tracker, people([50, 300])) == [1, 2]  # the number was not spent before


def test_a_second_find_of_a_person_begins_no_track():
    tracker = Tracker(settings=PLAIN)
    assert ids(tracker, people([50, 51], [0.9, 0.5])) == [1]
    for _ in range(3):
        assert ids(tracker, people([50, 51], [0.9, 0.5])) == [1]


def test_classes_do_not_take_each_others_tracks():
    tracker = Tracker(settings=PLAIN)
    assert ids(tracker, people([50], classes=[0])) == [1]
    tracker.update(people([50], classes=[1]))
    assert ids(tracker, people([50], classes=[1])) == [2]


def test_keypoints_decide_between_two_whose_boxes_overlap():
    """Both moved by most of their distance, and their keypoints say which is which."""
    tracker_ids = {}
    for share in (0.0, 0.9):
        tracker = Tracker(settings=replace(PLAIN, keypoint_share=share))
        for xs in ([100, 110], [107, 103]):
            result = people(xs, width=40)
            result.keypoints[:, :, 1] = [[22, 24, 26], [70, 75, 80]]
            tracker_ids[share] = tracker.update(result).track_ids.tolist()
    assert tracker_ids == {0.0: [2, 1], 0.9: [1, 2]}


def test_keypoints_are_smooth_and_boxes_as_found():
    rng, tracker = np.random.default_rng(0), Tracker()
    noise, errors, smooth_errors = rng.normal(0, 1, (60, 3)), [], []
    for step in range(60):
        result = people([100])
        result.keypoints[0, :, 0] += noise[step]
        given = result.keypoints.copy()
        tracked = tracker.update(result)
        assert np.array_equal(result.keypoints, given)  # the argument is not changed
        assert np.array_equal(tracked.boxes, result.boxes)
        assert np.array_equal(tracked.keypoints[..., 2], given[..., 2])
        errors.append(np.abs(given[..., 0] - 100).mean())
        smooth_errors.append(np.abs(tracked.keypoints[..., 0] - 100).mean())
    assert np.mean(smooth_errors[20:]) < 0.7 * np.mean(errors[20:])


def test_empty_frames_and_results_without_objects():
    tracker = Tracker()
    for result in (people([]), people([]), people([50]), people([50])):
        tracked = tracker.update(result)
    assert tracked.track_ids.tolist() == [1]
    assert len(tracker.update(people([])).track_ids) == 0
    with pytest.raises(ValueError, match="found a result without objects"):
        tracker.update(Result((10, 10), model_info()))


def test_dropped_frames_are_made_up_for():
    tracker = Tracker(settings=PLAIN)
    for step in range(10):
        tracker.update(people([50 + 3 * step]))
    assert tracker.update(people([50 + 3 * 29]), frames=20).track_ids.tolist() == [1]
    assert tracker.update(people([50 + 3 * 50]), frames=21).track_ids.tolist() == [1]
    assert len(tracker.update(people([50 + 3 * 71])).track_ids) == 0  # too far for one frame
