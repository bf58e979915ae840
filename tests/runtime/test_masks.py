"""Instance masks and panoptic segments."""

from __future__ import annotations

import numpy as np
import pytest

from d2_multitask.runtime import masks as module
from d2_multitask.runtime.masks import instance_masks, panoptic_segments, semantic_ids

SKELETON = [(0, 1), (1, 2)]


def people(height: int = 60, width: int = 80) -> dict[str, np.ndarray]:
    """Four objects in overlapping boxes: two confident ones, one of no keypoint, one weak."""
    rng = np.random.default_rng(3)
    boxes = np.array([[5, 4, 45, 56], [30, 10, 70, 50], [20, 25, 60, 40], [28, 2, 60, 58]], float)
    boxes *= np.array([width, height] * 2) / [80, 60, 80, 60]
    keypoints = np.ones((4, 3, 3))
    keypoints[..., :2] = rng.uniform(boxes[:, None, :2], boxes[:, None, 2:])
    keypoints[2, :, 2] = 0.05
    return {
        "classes": (rng.random((height, width)) < 0.9).astype(np.uint8),
        "boxes": boxes,
        "scores": np.array([0.9, 0.6, 0.7, 0.2]),
        "labels": np.ones(4, int),
        "keypoints": keypoints,
    }


def distance_to_limb(point: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    shares = np.linspace(0, 1, 1001)[:, None]
    return float(np.hypot(*(first + shares * (second - first) - point).T).min())


def cost(scene: dict[str, np.ndarray], index: int, point: np.ndarray) -> float:
    """Of a pixel with this middle: infinite outside of the object's box; by sampled limbs."""
    box, keypoints = scene["boxes"][index], scene["keypoints"][index]
    sides = box[2:] - box[:2]
    low, high = box[:2] - 0.1 * sides, box[2:] + 0.1 * sides
    if (point + 0.5 <= low).any() or (point - 0.5 >= high).any():
        return np.inf
    limbs = [keypoints[[a, b], :2] for a, b in SKELETON if keypoints[[a, b], 2].min() > 0.1]
    if not limbs:
        limbs = [np.array([box[:2], box[2:]]) + [[sides.min() / 2], [-sides.min() / 2]]]
    nearest = min(distance_to_limb(point, *limb) for limb in limbs)
    return nearest / np.sqrt(sides.prod()) - 0.05 * np.log(scene["scores"][index])


def test_masks_are_those_of_a_loop_over_pixels() -> None:
    scene = people(40, 52)
    found = instance_masks(**scene, skeleton=SKELETON)
    for row, column in np.ndindex(scene["classes"].shape):
        costs = np.array([cost(scene, i, np.array([column + 0.5, row + 0.5])) for i in range(4)])
        if not scene["classes"][row, column]:
            costs[:] = np.inf
        best = costs[:3].min()  # of the confident ones
        if (np.sort(costs[np.isfinite(costs)] - best)[1:2] < 1e-3).any():
            continue  # both are right
        assert (found[:, row, column] == (np.isfinite(costs) & (costs <= best))).all()
    assert found[:3].sum(0).max() == 1 and found.any((1, 2)).all()


def test_a_weak_object_takes_nothing_from_the_others() -> None:
    scene = people()
    strong = {name: value if name == "classes" else value[:3] for name, value in scene.items()}
    found = instance_masks(**scene, skeleton=SKELETON)
    assert (found[:3] == instance_masks(**strong, skeleton=SKELETON)).all()


def test_classes_do_not_compete() -> None:
    scene = people()
    scene["classes"] *= 2
    scene["classes"][:, :40] //= 2
    scene["labels"] = np.array([1, 2, 1, 2])
    found = instance_masks(**scene, skeleton=SKELETON)
    for mask, label in zip(found, scene["labels"], strict=True):
        assert mask.any() and (scene["classes"][mask] == label).all()


def test_a_large_image_is_shared_out_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = people(301, 403)
    found = instance_masks(**scene, skeleton=SKELETON)
    monkeypatch.setattr(module, "MOST_CELLS", 500)
    exact = instance_masks(**scene, skeleton=SKELETON)
    assert found[:3].sum(0).max() == 1
    assert (exact.any(0) <= found.any(0)).all()  # no pixel is lost
    assert 0 < (found != exact).mean() < 0.03


def test_no_object_and_no_pixel() -> None:
    scene = people()
    none = {name: value if name == "classes" else value[:0] for name, value in scene.items()}
    assert instance_masks(**none, skeleton=SKELETON).shape == (0, 60, 80)
    scene["classes"][:] = 0
    assert not instance_masks(**scene, skeleton=SKELETON).any()


def test_without_keypoints_boxes_decide() -> None:
    boxes = np.array([[0, 0, 40, 10], [30, 0, 70, 10]], float)
    found = instance_masks(np.ones((10, 70), int), boxes, np.array([0.8, 0.8]), np.ones(2, int))
    assert found[0, :, :35].all() and found[1, :, 35:].all() and found.sum() == 700


def test_panoptic_segments() -> None:
    classes = np.repeat([[0, 1, 1, 2, 3, 3]], 4, 0)
    masks = np.zeros((4, 4, 6), bool)
    masks[0, :, 1] = masks[1, :, 2] = masks[2, 0, 1:3] = True  # the third is weak
    scores, labels = np.array([0.6, 0.9, 0.3, 0.8]), np.array([0, 0, 0, 1])
    ids, segments = panoptic_segments(classes, masks, scores, labels, [2, 3], 0.5, 5)
    assert (ids == np.repeat([[0, 2, 1, 0, 3, 3]], 4, 0)).all() and ids.dtype == np.int32
    assert segments == [
        {"id": 1, "isthing": True, "score": 0.9, "category_id": 0, "instance_id": 1},
        {"id": 2, "isthing": True, "score": 0.6, "category_id": 0, "instance_id": 0},
        {"id": 3, "isthing": False, "category_id": 3, "area": 8},
    ]


def test_semantic_classes_of_objects_are_found_by_name() -> None:
    stuff = ["background", "sky", "cat", "person"]
    assert semantic_ids(["person", "cat"], stuff) == ([3, 2], [1])
    with pytest.raises(ValueError, match=r"no semantic class for the object classes \['dog'\]"):
        semantic_ids(["dog"], stuff)


def test_the_middle_of_a_torso_is_near_it() -> None:
    ring = [(0, 1), (1, 2), (2, 3), (3, 0)]
    keypoints = np.ones((2, 4, 3))
    keypoints[0, :, :2] = [[2, 2], [38, 2], [38, 38], [2, 38]]
    keypoints[1, :, :2] = [[30, 2], [30, 38], [30, 38], [30, 2]]
    boxes = np.array([[0, 0, 40, 40]] * 2, float)
    ones = np.ones((40, 40), int), boxes, np.full(2, 0.8), np.ones(2, int), keypoints
    found = instance_masks(*ones, ring)
    assert found[0, 20, 20] and found[1, 20, 30] and found[0, 20, 3]
