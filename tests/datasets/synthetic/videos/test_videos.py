"""Synthetic videos: the same from the same seed, exact labels, identities that last."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from synthetic.people import SceneConfig
from synthetic.videos import VideoConfig, draw_video, write_synthetic_videos

FRAMES = 24
SCENE = replace(VideoConfig().scene, short_side=(96, 96), min_visible_pixels=15)
SMALL = VideoConfig(num_frames=FRAMES, people=(3, 3), scene=SCENE)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with two videos, and the content of their JSON file."""
    root = tmp_path_factory.mktemp("videos")
    file = write_synthetic_videos(root, "test", 2, 5, config=SMALL)
    assert file == root / "synthetic_videos/annotations/videos_test.json"
    return root / "synthetic_videos/test", json.loads(file.read_text())


def test_files_hold_what_is_drawn(written):
    folder, content = written
    drawn = list(draw_video(5, "test", 1, SMALL))
    images = [image for image in content["images"] if image["video_id"] == 2]
    assert [image["frame_id"] for image in images] == list(range(FRAMES))
    for image, (pixels, labels) in zip(images, drawn, strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / image["file_name"])), pixels)
        found = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert [a["bbox"] for a in found] == [a["bbox"] for a in labels]
    assert len(list(folder.rglob("*.png"))) == 2 * FRAMES


def test_identities_are_unique_in_the_file_and_once_in_a_frame(written):
    _, content = written
    videos_of = defaultdict(set)
    for image in content["images"]:
        ids = [a["track_id"] for a in content["annotations"] if a["image_id"] == image["id"]]
        assert len(ids) == len(set(ids))
        for track_id in ids:
            videos_of[track_id].add(image["video_id"])
    assert all(len(videos) == 1 for videos in videos_of.values())
    assert set(videos_of) <= set(range(1, 7))


def test_people_move_a_little_from_frame_to_frame():
    frames = [labels for _, labels in draw_video(5, "test", 0, SMALL)]
    moves = []
    for before, after in pairwise(frames):
        after = {a["track_id"]: a for a in after}
        for person in before:
            if person["track_id"] in after and not person["ignore"]:
                hips = [
                    np.reshape(a["keypoints"], (17, 3))[11:13]
                    for a in (person, after[person["track_id"]])
                ]
                if all((points[:, 2] > 0).all() for points in hips):
                    moves.append(np.abs(hips[0].mean(0) - hips[1].mean(0))[0])
    assert len(moves) > FRAMES
    # 0.75 statures a second at most, of 0.85 of the picture's height and 10 % that it may grow.
    assert 0.1 < np.mean(moves) and max(moves) < 0.75 / 25 * 0.95 * 96 + 1


def test_the_camera_stands_still_and_noise_does_not():
    config = replace(SMALL, people=(0, 0), num_frames=2)
    (first, none), (second, _) = draw_video(5, "test", 0, config)
    assert not none
    difference = first.astype(int) - second
    assert 0 < np.abs(difference).mean() < 4


def test_who_can_hardly_be_seen_is_marked():
    frames = draw_video(5, "test", 0, replace(SMALL, people=(8, 8)))
    for pixels, labels in frames:
        assert [a["depth_order"] for a in labels] == list(range(len(labels)))
        for person in labels:
            hardly = person["visible_fraction"] < SCENE.min_visible_fraction - 1e-3
            hardly |= person["area"] < SCENE.min_visible_pixels
            assert person["ignore"] or not hardly
            x, _, width, _ = person["bbox"]
            at_edge = x < 30 or x + width > pixels.shape[1] - 30
            assert hardly or at_edge or not person["ignore"]


def test_another_seed_is_another_video_and_other_arguments_are_refused(tmp_path):
    first, other = (next(draw_video(seed, "test", 0, SMALL))[0] for seed in (5, 6))
    assert first.shape != other.shape or (first != other).any()
    config = replace(SMALL, num_frames=1)
    write_synthetic_videos(tmp_path, "test", 1, 0, config=config)
    with pytest.raises(ValueError, match="made with other arguments"):
        write_synthetic_videos(tmp_path, "test", 1, 1, config=config)


def test_the_defaults_are_as_large_as_training_images():
    low, high = SceneConfig().short_side
    assert low <= VideoConfig().scene.short_side[0] <= high
