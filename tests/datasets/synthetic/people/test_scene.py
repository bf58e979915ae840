from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from synthetic.people import Scene, SceneConfig, draw_scene
from synthetic.people.labels import (
    IGNORE_VALUE,
    KEYPOINT_NAMES,
    PART_NAMES,
    PARTS_OF_JOINT,
)

NUM_SCENES = 60
LEFT_EYE, RIGHT_EYE = KEYPOINT_NAMES.index("left_eye"), KEYPOINT_NAMES.index("right_eye")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(11, "val", index) for index in range(NUM_SCENES)]


def people(scene):
    return [a for a in scene.annotations if not a["iscrowd"]]


def all_people(scenes):
    return [(scene, person) for scene in scenes for person in people(scene)]


def joints(person):
    return np.array(person["keypoints"], dtype=float).reshape(-1, 3)


def owners(scene):
    """(H, W) index of the person at each pixel, -1 for nobody."""
    owner = np.full(scene.sem_seg.shape, -1)
    for index, person in enumerate(people(scene)):
        owner[coco_mask.decode(person["segmentation"]) > 0] = index
    return owner


def people_touch(scene):
    """Whether the visible masks of two people share an edge: one stands before the other."""
    owner = owners(scene)
    count = 0
    for first, second in ((owner[1:], owner[:-1]), (owner[:, 1:], owner[:, :-1])):
        count += np.count_nonzero((first != second) & (first >= 0) & (second >= 0))
    return count >= 4


def test_the_same_arguments_give_the_same_scene():
    later = draw_scene(11, "val", 4)
    draw_scene(3, "train", 0)
    again = draw_scene(11, "val", 4)
    for name in ("image", "sem_seg", "parts"):
        assert np.array_equal(getattr(later, name), getattr(again, name))
    assert later.annotations == again.annotations


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((12, "val", 4), id="seed"),
        pytest.param((11, "train", 4), id="split"),
        pytest.param((11, "val", 5), id="index"),
    ],
)
def test_other_arguments_give_another_scene(other):
    scene, another = draw_scene(11, "val", 4), draw_scene(*other)
    assert scene.image.shape != another.image.shape or (scene.image != another.image).mean() > 0.5


# Every field is given, so that new defaults leave this test alone.
_GOLDEN_CONFIG = SceneConfig(
    short_side=(96, 128),
    aspect_ratio=(1.0, 1.3),
    portrait_probability=0.5,
    people_weights=(0.0, 0.0, 1.0, 1.0),
    stature_range=(0.3, 0.95),
    small_stature_limit=0.4,
    small_probability=0.2,
    child_probability=0.2,
    near_probability=0.6,
    cut_bottom_probability=0.1,
    cut_side_probability=0.1,
    pose_weights=(1.0,) * 7,
    view_weights=(1.0,) * 4,
    camera_pitch=10.0,
    roll=7.0,
    tilted_probability=0.1,
    tilted_roll=35.0,
    camouflage_probability=0.3,
    plain_probability=0.6,
    cloth_saturation=(0.2, 0.9),
    background_contrast=0.7,
    distractors=(5, 9),
    occluder_probability=0.5,
    crowd_probability=0.5,
    crowd_people=(4, 6),
    min_visible_pixels=40,
    min_visible_fraction=0.1,
    noise=(2.0, 14.0),
    blur_probability=0.5,
    gain=(0.7, 1.2),
)


def digest(scene):
    value = hashlib.sha256()
    for array in (scene.image, scene.sem_seg, scene.parts):
        value.update(str(array.shape).encode() + array.tobytes())
    value.update(json.dumps(scene.annotations, sort_keys=True).encode())
    return value.hexdigest()


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, "28108bb50f47aec159cf6a53b19730b2f96ada3be38af0b0f58bae022a9be7c8"),
        (1, "8b75cf8ab74b67ab36fd761b6f2a6f0e1035d7c470d0559f2c940a0de1c9fa9c"),
        (2, "d2e387df73c1ef09f945dd10a965df70c02c885f75f6254d2aa4d8a8298c9b5a"),
        (3, "44ec6cf9d647a6dabffb2994a7df445bab57a3f05f420b1b9123a5b2414b9241"),
    ],
)
def test_pixels_and_labels_are_the_same_on_every_machine(index, expected):
    """A failure here means other data for the same seed: raise ``GENERATOR_VERSION`` then."""
    assert digest(draw_scene(2**32 - 1, "golden", index, _GOLDEN_CONFIG)) == expected


def test_maps_have_the_size_and_the_values_that_they_should(scenes):
    low, high = SceneConfig().short_side
    for scene in scenes:
        height, width = scene.sem_seg.shape
        assert scene.image.shape == (height, width, 3)
        assert scene.parts.shape == (height, width)
        assert {scene.image.dtype, scene.sem_seg.dtype, scene.parts.dtype} == {np.dtype("uint8")}
        assert low <= min(height, width) <= high
        assert set(np.unique(scene.sem_seg)) <= {0, 1, IGNORE_VALUE}
        assert np.array_equal(scene.sem_seg == IGNORE_VALUE, scene.parts == IGNORE_VALUE)
        is_part = (scene.parts > 0) & (scene.parts < len(PART_NAMES))
        assert np.array_equal(scene.sem_seg == 1, is_part)
    assert any(s.image.shape[0] > s.image.shape[1] for s in scenes)
    assert any(s.image.shape[0] < s.image.shape[1] for s in scenes)


def test_every_part_occurs(scenes):
    seen = set().union(*(np.unique(scene.parts) for scene in scenes))
    assert seen >= set(range(1, len(PART_NAMES)))


def test_masks_do_not_overlap_and_fill_the_semantic_map(scenes):
    for scene in scenes:
        masks = [coco_mask.decode(person["segmentation"]) for person in people(scene)]
        total = sum(masks, np.zeros(scene.sem_seg.shape, np.uint8))
        assert np.array_equal(total, scene.sem_seg == 1)


def test_boxes_and_areas_are_those_of_the_visible_mask(scenes):
    for scene, person in all_people(scenes):
        mask = coco_mask.decode(person["segmentation"])
        assert mask.shape == scene.sem_seg.shape
        rows, columns = np.nonzero(mask)
        x, y, width, height = person["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
        assert person["area"] == mask.sum() >= SceneConfig().min_visible_pixels


def test_visible_joints_lie_on_the_right_part_of_their_own_person(scenes):
    shown = 0
    for scene, person in all_people(scenes):
        mask = coco_mask.decode(person["segmentation"])
        height, width = mask.shape
        for (x, y, v), parts in zip(joints(person), PARTS_OF_JOINT, strict=True):
            if v == 0:
                assert (x, y) == (0, 0)
                continue
            assert 0 <= x <= width - 1 and 0 <= y <= height - 1
            if v == 2:
                row, column = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
                assert mask[row, column] == 1
                assert scene.parts[row, column] in parts
                shown += 1
    assert shown > 0.4 * 17 * len(all_people(scenes))


def test_all_three_visibilities_occur_and_num_keypoints_counts_them(scenes):
    seen = np.zeros(3)
    for _, person in all_people(scenes):
        visibility = joints(person)[:, 2].astype(int)
        assert person["num_keypoints"] == np.count_nonzero(visibility)
        seen += np.bincount(visibility, minlength=3)
    assert (seen / seen.sum() > (0.01, 0.1, 0.4)).all()


def test_the_left_eye_is_on_the_right_of_a_face_seen_from_the_front(scenes):
    faces = 0
    for _, person in all_people(scenes):
        seen = joints(person)
        if (seen[:3, 2] == 2).all():
            faces += 1
            assert seen[LEFT_EYE, 0] > seen[RIGHT_EYE, 0]
    assert faces > 20


def test_the_eyes_are_covered_when_seen_from_behind():
    config = SceneConfig(
        people_weights=(0, 1),
        view_weights=(0, 1, 0, 0),
        pose_weights=(1, 0, 0, 0, 0, 0, 0),
        occluder_probability=0,
    )
    backs = 0
    for index in range(12):
        (person,) = people(draw_scene(0, "back", index, config))
        seen = joints(person)
        left, right = (KEYPOINT_NAMES.index(f"{side}_shoulder") for side in ("left", "right"))
        assert seen[left, 0] < seen[right, 0]
        backs += (seen[:3, 2] != 2).all()
    assert backs >= 8  # heads may be turned to the side


def test_people_overlap_in_a_third_of_the_images(scenes):
    assert np.mean([people_touch(scene) for scene in scenes]) >= 1 / 3


def test_sizes_and_numbers_of_people_vary(scenes):
    assert len({len(people(scene)) for scene in scenes}) >= 4
    heights = [p["bbox"][3] / s.sem_seg.shape[0] for s, p in all_people(scenes)]
    assert np.quantile(heights, 0.05) < 0.5
    assert np.quantile(heights, 0.95) > 0.8
    assert 0.5 < np.median(heights) < 0.8


def test_depth_order_counts_from_the_nearest_person_which_nobody_covers():
    config = SceneConfig(people_weights=(0, 0, 0, 0, 1), near_probability=1, occluder_probability=0)
    covered = 0
    for index in range(10):
        persons = people(draw_scene(0, "depth", index, config))
        assert [person["depth_order"] for person in persons] == list(range(len(persons)))
        assert persons[0]["visible_fraction"] == 1.0
        fractions = [person["visible_fraction"] for person in persons]
        assert min(fractions) >= config.min_visible_fraction - 1e-3
        covered += sum(fraction < 1.0 for fraction in fractions)
    assert covered >= 10


def test_a_person_that_is_left_out_does_not_change_the_others():
    """Streams are named by person: hiding one leaves the looks of the rest as they are."""
    config = SceneConfig(people_weights=(0, 0, 0, 1), near_probability=1, occluder_probability=0)
    strict = replace(config, min_visible_fraction=0.99)
    shrunk = 0
    for index in range(8):
        everyone, few = (draw_scene(1, "out", index, c) for c in (config, strict))
        assert len(people(few)) >= 1
        shrunk += len(people(few)) < len(people(everyone))
        nearest = [people(scene)[0] for scene in (everyone, few)]
        assert nearest[0] == nearest[1]
    assert shrunk >= 2


def test_an_image_without_people():
    scene = draw_scene(0, "none", 0, SceneConfig(people_weights=(1,), crowd_probability=0))
    assert scene.annotations == []
    assert not scene.sem_seg.any() and not scene.parts.any()
    assert scene.image.std() > 5


def test_a_crowd_is_one_region_that_is_ignored():
    config = SceneConfig(crowd_probability=1, people_weights=(0, 1, 1))
    for index in range(5):
        scene = draw_scene(0, "crowd", index, config)
        crowd = scene.annotations[-1]
        assert [a["iscrowd"] for a in scene.annotations] == [0] * (len(scene.annotations) - 1) + [1]
        region = coco_mask.decode(crowd["segmentation"]) == 1
        assert np.array_equal(region, scene.sem_seg == IGNORE_VALUE)
        assert region.sum() == crowd["area"]
        assert crowd["num_keypoints"] == 0 and crowd["keypoints"] == [0] * 51
        assert crowd["bbox"][2] > crowd["bbox"][3]  # people side by side


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"short_side": (10, 20)}, r"short_side: expected .*got \(10, 20\)", id="size"),
        pytest.param({"short_side": (90, 80)}, "short_side", id="size order"),
        pytest.param({"aspect_ratio": (0.5, 1.0)}, "aspect_ratio", id="aspect"),
        pytest.param({"crowd_probability": 1.5}, "crowd_probability.*got 1.5", id="probability"),
        pytest.param({"people_weights": (0.0, 0.0)}, "people_weights", id="no weight"),
        pytest.param({"pose_weights": (1.0, -1.0)}, "pose_weights", id="negative weight"),
        pytest.param({"pose_weights": (1.0,)}, "pose_weights: expected 7", id="number of poses"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        SceneConfig(**change)


def test_a_bad_seed_is_named():
    with pytest.raises(ValueError, match="got -1"):
        draw_scene(-1, "train", 0)
