"""MODEL.POSE_HEAD.DECODE "centernet" and the box head's GIoU, computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, Decoded, build_heads
from d2_multitask.targets.decode import match_keypoints
from support import TinyBackbone, labelled_image

GRID = (8, 8)


def config(tasks: list[str]) -> CfgNode:
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS, cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = tasks, 1
    return cfg


def heads_of(cfg: CfgNode) -> Any:
    return build_heads(cfg, TinyBackbone().output_shape())


def spikes(*places: tuple[int, int, float]) -> Tensor:
    """(1, 1, 8, 8) logits: probability p at each (x, y, p), about 0 elsewhere."""
    heatmap = torch.full((1, 1, *GRID), -20.0)
    for x, y, p in places:
        heatmap[0, 0, y, x] = torch.logit(torch.tensor(p))
    return heatmap


def constant(*values: float) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1).expand(1, len(values), *GRID).clone()


@pytest.mark.parametrize(
    ("rule", "peaks", "joint", "score"),
    [
        # One person: cell (3, 4), offset (0.5, 0.25), so the centre is (3.5, 4.25); size 4 x 6, so
        # the box is (1.5, 1.25)-(5.5, 7.25). The joint is regressed from the integer centre:
        # (3 + 1, 4 - 1) = (4, 3). Peaks have the sub-cell offset (0.25, 0.5).
        pytest.param("centernet", [(4, 2, 0.8)], (4.25, 2.5), 1.0, id="peak within reach"),
        pytest.param("best", [(4, 2, 0.8)], (4.25, 2.5), 0.8, id="ours: its score"),
        # 0.3 x 6 = 1.8 from (4, 3): the peak (4.25, 5.5) is 2.51 away.
        pytest.param("centernet", [(4, 5, 0.8)], (4, 3), 1.0, id="too far"),
        pytest.param("centernet", [(4, 2, 0.09)], (4, 3), 1.0, id="too weak"),
        # (5.25, 3.5) is nearer than (4.25, 1.5) but the latter ...: see the case below.
        pytest.param("centernet", [(5, 3, 0.5), (4, 1, 0.9)], (5.25, 3.5), 1.0, id="nearest"),
    ],
)
def test_one_person(rule: str, peaks: list, joint: tuple[float, float], score: float) -> None:
    cfg = config(["det", "pose"])
    cfg.MODEL.POSE_HEAD.DECODE = rule
    images = ImageList(torch.zeros(1, 3, 32, 32), [(32, 32)])
    predictions = {
        "center": {"heatmap": spikes((3, 4, 0.9)), "offset": constant(0.5, 0.25)},
        "det": {"wh": constant(4.0, 6.0)},
        "pose": {
            "keypoint_offset": constant(1.0, -1.0),
            "keypoint_heatmap": spikes(*peaks),
            "keypoint_heatmap_offset": constant(0.25, 0.5),
        },
    }
    decoded = Decoded()
    for name, head in heads_of(cfg).items():
        head.inference(predictions[name], images, decoded)
    box = decoded.objects["pred_boxes"][0, 0] / 4
    torch.testing.assert_close(box, torch.tensor([1.5, 1.25, 5.5, 7.25]))
    found = decoded.objects["pred_keypoints"][0, 0, 0]
    torch.testing.assert_close(found[:2] / 4, torch.tensor(joint, dtype=torch.float32))
    assert found[2].item() == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize(("nearest_first", "expected"), [(True, [4.0, 3.0]), (False, [4.0, 1.6])])
def test_the_nearest_peak_lies_outside_of_the_box(
    nearest_first: bool, expected: list[float]
) -> None:
    """CenterNet then keeps the regressed joint; we take the next peak."""
    joints, matched = match_keypoints(
        torch.tensor([[[[4.0, 3.0]]]]),
        torch.tensor([[[[5.0, 3.0], [4.0, 1.6]]]]),
        torch.tensor([[[0.9, 0.9]]]),
        torch.tensor([[[1.0, 1.0, 4.5, 7.0]]]),
        score_threshold=0.1,
        max_distance=0.3,
        nearest_first=nearest_first,
    )
    torch.testing.assert_close(joints[0, 0, 0], torch.tensor(expected))
    assert matched.item() == (not nearest_first)


@pytest.mark.parametrize(("rule", "mirrored"), [("centernet", -3.0), ("best", -2.0)])
def test_flipped_joint_offsets(rule: str, mirrored: float) -> None:
    cfg = config(["pose"])
    cfg.MODEL.POSE_HEAD.DECODE = rule
    head = heads_of(cfg)["pose"]
    flat = {"keypoint_offset": constant(0.0, 0.0), "keypoint_heatmap": spikes()}
    flipped = {"keypoint_offset": constant(3.0, 5.0), "keypoint_heatmap": spikes()}
    merged = head.merge_flipped(flat, flipped)["keypoint_offset"]
    torch.testing.assert_close(merged, constant(mirrored / 2, 2.5))


def test_unknown_rules() -> None:
    cfg = config(["det", "pose"])
    cfg.MODEL.POSE_HEAD.DECODE = "mine"
    with pytest.raises(ValueError, match="POSE_HEAD.DECODE: found 'mine'.*'centernet'"):
        heads_of(cfg)
    cfg = config(["det"])
    cfg.MODEL.DET_HEAD.BOX_LOSS = "iou"
    with pytest.raises(ValueError, match="DET_HEAD.BOX_LOSS: found 'iou'.*'giou'"):
        heads_of(cfg)


def giou_head() -> Any:
    cfg = config(["det"])
    cfg.MODEL.DET_HEAD.BOX_LOSS = "giou"
    cfg.MODEL.CENTER_HEAD.ASSIGN_RADIUS = 1
    return heads_of(cfg)["det"]


def raw(distance: float) -> float:
    """Softplus's inverse."""
    return float(torch.log(torch.expm1(torch.tensor(distance))))


def test_distances_that_give_the_box_back_cost_nothing() -> None:
    """Cell (3, 4) has its centre at (3.5, 4.5): distances 2.5, 3.5, 1.5, 2.5 are box 1 1 5 7."""
    head = giou_head()
    entry = labelled_image(32, 32, ((4, 4, 20, 28),), num_keypoints=1)
    images = ImageList(torch.zeros(1, 3, 32, 32), [(32, 32)])
    targets = head.targets(BatchLabels([entry], images))
    assert len(targets["cells"]) == 9
    ltrb = torch.zeros(1, 4, *GRID)
    for x, y in targets["cells"].xy.tolist():
        distances = x + 0.5 - 1, y + 0.5 - 1, 5 - x - 0.5, 7 - y - 0.5
        ltrb[0, :, y, x] = torch.tensor([raw(d) for d in distances])
    assert head.losses({"ltrb": ltrb}, targets)["loss_det_giou"].item() == pytest.approx(
        0, abs=1e-5
    )
    # Half as wide at every cell: IoU 1/2 where the half lies inside; the loss is weighted by 2.
    decoded = Decoded(peaks=type("P", (), {"xy": torch.tensor([[[3, 4]]])})())
    head.inference({"ltrb": ltrb}, images, decoded)
    torch.testing.assert_close(
        decoded.objects["pred_boxes"][0, 0], torch.tensor([4.0, 4, 20, 28]), rtol=0, atol=1e-3
    )
    flipped = head.merge_flipped({"ltrb": ltrb}, {"ltrb": ltrb.flip(-1)[:, [2, 1, 0, 3]]})
    torch.testing.assert_close(flipped["ltrb"], ltrb)


@pytest.mark.parametrize("boxes", [((4, 4, 20, 28),), ()])
def test_giou_gradients(boxes: tuple) -> None:
    head = giou_head()
    entry = labelled_image(32, 32, boxes, num_keypoints=1)
    predictions = head.layers({"p2": torch.randn(1, 8, *GRID)})
    images = ImageList(torch.zeros(1, 3, 32, 32), [(32, 32)])
    loss = head.losses(predictions, head.targets(BatchLabels([entry], images)))["loss_det_giou"]
    loss.backward()
    assert loss.isfinite() and (loss > 0) == bool(boxes)
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_giou_boxes_of_a_fused_network_are_the_same() -> None:
    from d2_multitask.modeling.inference.at_peaks import BranchAtPeaks, compute_at_peaks

    head = giou_head()
    feature, xy = {"p2": torch.randn(1, 8, *GRID)}, torch.tensor([[[3, 4], [0, 7]]])
    images = ImageList(torch.zeros(1, 3, 32, 32), [(32, 32)])
    boxes = []
    for _ in range(2):
        decoded = Decoded(peaks=type("P", (), {"xy": xy})())
        head.inference(head.layers(feature), images, decoded)
        boxes.append(decoded.objects["pred_boxes"])
        compute_at_peaks(torch.nn.Sequential(head))
    assert isinstance(head.ltrb, BranchAtPeaks)
    torch.testing.assert_close(*boxes)
