"""MOTA, IDF1 and HOTA of cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("trackeval")

from d2_multitask.tracking.scores import FrameTracks, FrameTruth, track_scores

BOXES = np.array([[0.0, 0, 10, 20], [50, 0, 60, 20]])
FRAMES = 10


def truth(ignore=(False, False)):
    return [FrameTruth(BOXES, np.array([7, 9]), np.array(ignore)) for _ in range(FRAMES)]


def found(ids):
    """Both boxes in every frame, with identities (frames, 2); -1 = not found."""
    ids = np.array(ids)
    return [FrameTracks(BOXES[row >= 0], row[row >= 0]) for row in ids]


def test_perfect_tracks():
    scores = track_scores([truth(), truth()], [found([[3, 1]] * FRAMES)] * 2)
    assert [scores[key] for key in ("HOTA", "DetA", "AssA", "MOTA", "IDF1")] == [100] * 5
    assert scores["IDSW"] == scores["FP"] == scores["FN"] == 0


def test_identities_that_are_exchanged_halfway():
    scores = track_scores([truth()], [found([[1, 2]] * 5 + [[2, 1]] * 5)])
    assert scores["IDSW"] == 2
    assert scores["MOTA"] == pytest.approx(100 * (1 - 2 / 20))
    assert scores["IDF1"] == pytest.approx(50)  # half of the boxes have the better identity
    # Of each pair of identities 5 of 15 frames are shared.
    assert scores["AssA"] == pytest.approx(100 / 3)
    assert scores["HOTA"] == pytest.approx(100 * (1 / 3) ** 0.5)


def test_missing_and_wrong_boxes():
    tracks = found([[1, -1]] * FRAMES)
    wrong = np.array([[90.0, 0, 99, 9]])
    tracks = [FrameTracks(np.concatenate((t.boxes, wrong)), np.array([1, 5])) for t in tracks]
    scores = track_scores([truth()], [tracks])
    assert (scores["FN"], scores["FP"]) == (10, 10)
    assert scores["MOTA"] == pytest.approx(0)
    assert scores["IDF1"] == pytest.approx(50)


def test_objects_to_be_ignored_count_neither_found_nor_missed():
    for ids in ([[1, 2]], [[1, -1]]):
        scores = track_scores([truth(ignore=(False, True))], [found(ids * FRAMES)])
        assert (scores["MOTA"], scores["FP"], scores["FN"]) == (100, 0, 0)


def test_nothing_found_at_all():
    scores = track_scores([truth()], [found([[-1, -1]] * FRAMES)])
    assert (scores["IDF1"], scores["HOTA"], scores["FN"]) == (0, 0, 20)
