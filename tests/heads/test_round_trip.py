"""decode(encode(x)) == x: what the heads are told to predict, decoded, gives the labels back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances, Keypoints
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, Decoded, build_heads
from d2_multitask.targets.encode import CenterCells
from support import TinyBackbone, labelled_image

HEIGHT, WIDTH, STRIDE = 64, 48, 4
GRID = (HEIGHT // STRIDE, WIDTH // STRIDE)


def build(tasks: list[str], assign_radius: int = 0, num_keypoints: int = 3) -> Any:
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = tasks
    cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = num_keypoints
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.MODEL.SEM_SEG_HEAD.NORM = ""
    cfg.MODEL.CENTER_HEAD.ASSIGN_RADIUS = assign_radius
    # Exact Gaussians are small, so two near centres do not swallow each other's peaks.
    cfg.MODEL.CENTER_HEAD.GAUSSIAN_RADIUS = "exact"
    return build_heads(cfg, TinyBackbone().output_shape())


def spread(cells: CenterCells, values: Tensor, num_images: int) -> Tensor:
    """Write (A, C) into a map of nonsense (N, C, h, w) at the assigned cells."""
    dense = torch.full((num_images, values.shape[1], *GRID), -7.3)
    dense[cells.image_index, :, cells.xy[:, 1], cells.xy[:, 0]] = values
    return dense


def perfect(heads: Any, batch: list[dict[str, Any]]) -> tuple[ImageList, dict[str, Any]]:
    images = ImageList.from_tensors([x["image"].float() for x in batch])
    predictions = {}
    for name, head in heads.items():
        targets = head.targets(BatchLabels(batch, images))
        if name == "center":
            predictions[name] = {
                "heatmap": torch.logit(targets["heatmap"], eps=1e-6),
                "offset": spread(targets["cells"], targets["offset"], len(batch)),
            }
        elif name == "det":
            predictions[name] = {"wh": spread(targets["cells"], targets["wh"], len(batch))}
        else:
            sub_cell = torch.full((len(batch), 2, *GRID), 0.0)
            cell = targets["keypoint_cell"]
            sub_cell[targets["keypoint_image"], :, cell[:, 1], cell[:, 0]] = targets[
                "keypoint_heatmap_offset"
            ]
            predictions[name] = {
                "keypoint_offset": spread(
                    targets["cells"], targets["keypoint_offset"].flatten(1), len(batch)
                ),
                "keypoint_heatmap": torch.logit(targets["keypoint_heatmap"], eps=1e-6),
                "keypoint_heatmap_offset": sub_cell,
            }
    return images, predictions


def decode(heads: Any, batch: list[dict[str, Any]]) -> list[Instances]:
    images, predictions = perfect(heads, batch)
    decoded = Decoded()
    for name, head in heads.items():
        head.inference(predictions[name], images, decoded)
    results = []
    for index in range(len(batch)):
        size = images.image_sizes[index]
        instances = heads["center"].postprocess(decoded, index, size, size)["instances"]
        results.append(instances[instances.scores > 0.99])
    return results


def nearest(found: Tensor, wanted: Tensor) -> Tensor:
    """Largest coordinate difference of each wanted row to its nearest found row."""
    return (found[None].flatten(2) - wanted[:, None].flatten(2)).abs().amax(2).amin(1)


@pytest.mark.parametrize("assign_radius", [0, 1])
@pytest.mark.parametrize(
    "boxes",
    [
        pytest.param(((4, 6, 30, 60), (20, 2, 44, 40)), id="two people"),
        pytest.param(((0, 0, 48, 64),), id="the whole image"),
        pytest.param(((0, 0, 1, 1), (47, 63, 48, 64)), id="one pixel in two corners"),
        pytest.param(((0, 20, 9, 41.5), (39.25, 0, 48, 11)), id="at the borders"),
        pytest.param(((10.1, 20.2, 30.3, 40.4), (16.1, 20.2, 36.3, 40.4)), id="near centres"),
        pytest.param((), id="nobody"),
    ],
)
def test_boxes_and_joints_come_back(boxes, assign_radius: int) -> None:
    heads = build(["det", "pose"], assign_radius)
    # Joints that share a cell share one sub-cell offset, by design; as regressed they are exact.
    heads["pose"].matching.max_distance = 0.0
    batch = [
        labelled_image(HEIGHT, WIDTH, boxes, num_keypoints=3, seed=3),
        labelled_image(HEIGHT, WIDTH, ((8, 8, 20, 40),), num_keypoints=3, seed=4),
    ]
    for result, entry in zip(decode(heads, batch), batch, strict=True):
        labels = entry["instances"]
        assert len(result) == len(labels)
        if len(labels):
            assert nearest(result.pred_boxes.tensor, labels.gt_boxes.tensor).max() < 1e-3
            wanted = labels.gt_keypoints.tensor[..., :2]
            assert nearest(result.pred_keypoints[..., :2], wanted).max() < 1e-3


def test_joint_peaks_mend_imprecise_regressions() -> None:
    entry = labelled_image(HEIGHT, WIDTH, ((4, 4, 44, 60),), num_keypoints=3)
    joints = torch.tensor([[[10.3, 12.9, 2.0], [33.7, 20.1, 1.0], [21.2, 50.6, 2.0]]])
    entry["instances"].gt_keypoints = Keypoints(joints)
    heads = build(["det", "pose"])
    images, predictions = perfect(heads, [entry])
    predictions["pose"]["keypoint_offset"] += torch.linspace(-1.5, 1.5, 6).view(1, 6, 1, 1)
    decoded = Decoded()
    for name, head in heads.items():
        head.inference(predictions[name], images, decoded)
    found = decoded.objects["pred_keypoints"][0, 0, :, :2]
    torch.testing.assert_close(found, joints[0, :, :2], atol=1e-3, rtol=0)


def test_a_shared_cell_gives_one_of_its_objects() -> None:
    boxes = ((10, 10, 20, 20), (8, 8, 22, 22))
    (result,) = decode(build(["det"]), [labelled_image(HEIGHT, WIDTH, boxes)])
    assert result.pred_boxes.tensor.tolist() == [[10, 10, 20, 20]]


coordinate = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_objects_come_back(data: st.DataObject) -> None:
    """Up to five boxes anywhere, with joints anywhere in the image; one object a cell is kept."""
    count = data.draw(st.integers(0, 5))
    boxes, joints, cells = [], [], set()
    for _ in range(count):
        x0, y0 = data.draw(coordinate) * (WIDTH - 2), data.draw(coordinate) * (HEIGHT - 2)
        x1 = x0 + 1 + data.draw(coordinate) * (WIDTH - 1 - x0)
        y1 = y0 + 1 + data.draw(coordinate) * (HEIGHT - 1 - y0)
        cell = (int((x0 + x1) / 2 / STRIDE), int((y0 + y1) / 2 / STRIDE))
        if cell in cells:
            continue
        cells.add(cell)
        boxes.append([x0, y0, x1, y1])
        joints.append(
            [[data.draw(coordinate) * 47.9, data.draw(coordinate) * 63.9, 2.0] for _ in range(3)]
        )
    entry = labelled_image(HEIGHT, WIDTH, (), num_keypoints=3)
    instances = Instances((HEIGHT, WIDTH))
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.zeros(len(boxes), dtype=torch.long)
    instances.gt_keypoints = Keypoints(torch.tensor(joints).reshape(-1, 3, 3))
    entry["instances"] = instances
    heads = build(["det", "pose"])
    # Joints may move to another person's peak at decoding; here they stay as regressed.
    heads["pose"].matching.max_distance = 0.0
    (result,) = decode(heads, [entry])
    assert len(result) == len(boxes)
    if boxes:
        assert nearest(result.pred_boxes.tensor, instances.gt_boxes.tensor).max() < 1e-2
        wanted = instances.gt_keypoints.tensor[..., :2]
        assert nearest(result.pred_keypoints[..., :2], wanted).max() < 1e-2


def test_without_a_box_head_the_joints_hull_is_the_box() -> None:
    heads = build(["pose"])
    (result,) = decode(heads, [labelled_image(HEIGHT, WIDTH, ((8, 8, 28, 48),), num_keypoints=3)])
    joints = result.pred_keypoints[0, :, :2]
    low, high = joints.amin(0), joints.amax(0)
    margin = (high - low) * 0.1
    expected = torch.cat([low - margin, high + margin])
    torch.testing.assert_close(result.pred_boxes.tensor[0], expected, atol=1e-3, rtol=0)


def test_joint_confidence_is_the_heatmaps_score() -> None:
    entry = labelled_image(HEIGHT, WIDTH, ((8, 8, 28, 48),), num_keypoints=3)
    heads = build(["det", "pose"])
    images, predictions = perfect(heads, [entry])
    predictions["pose"]["keypoint_heatmap"] = torch.full((1, 3, *GRID), -20.0)
    cell = (entry["instances"].gt_keypoints.tensor[0, 1, :2] / STRIDE).long()
    predictions["pose"]["keypoint_heatmap"][0, 1, cell[1], cell[0]] = 0.0  # p = 0.5
    decoded = Decoded()
    for name, head in heads.items():
        head.inference(predictions[name], images, decoded)
    torch.testing.assert_close(
        decoded.objects["pred_keypoints"][0, 0, :, 2], torch.tensor([0.0, 0.5, 0.0])
    )
