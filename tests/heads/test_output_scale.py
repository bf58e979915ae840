"""WH_SCALE and OFFSET_SCALE: units of the last layer, invisible outside of the head."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, Decoded, build_heads
from d2_multitask.targets.decode import Peaks
from support import TinyBackbone, labelled_image


@pytest.mark.parametrize(
    ("task", "node", "key", "branch"),
    [
        ("det", "DET_HEAD", "WH_SCALE", "wh"),
        ("pose", "POSE_HEAD", "OFFSET_SCALE", "keypoint_offset"),
    ],
)
def test_the_last_layer_is_read_in_units_of_the_scale(
    task: str, node: str, key: str, branch: str
) -> None:
    """1.5 units are 24 cells, in results, losses and flips."""
    results, losses, merged = [], [], []
    for scale in (16.0, 1.0):
        cfg = get_multitask_cfg()
        cfg.MODEL.TASKS = [task]
        cfg.MODEL[node][key] = scale
        cfg.MODEL.POSE_HEAD.PEAK_SCORE_THRESH_TEST = 1.0  # keypoints stay as regressed
        head = build_heads(cfg, TinyBackbone().output_shape())[task]
        last = getattr(head, branch)[-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, 24 / scale)
        predictions = head.layers({"p2": torch.rand(1, 8, 16, 12)})
        assert predictions[branch].unique().tolist() == [24 / scale]
        cell = torch.tensor([[[3, 4]]])
        decoded = Decoded(Peaks(torch.ones(1, 1), torch.zeros(1, 1).long(), cell), cell + 0.5)
        head.inference(predictions, None, decoded)
        name = {"wh": "pred_boxes", "keypoint_offset": "pred_keypoints"}[branch]
        results.append(decoded.objects[name][..., :2])
        images = ImageList(torch.zeros(1, 3, 64, 48), [(64, 48)])
        terms = head.losses(predictions, head.targets(BatchLabels([labelled_image()], images)))
        losses.append(terms[{"wh": "loss_det_wh"}.get(branch, "loss_pose_offset")].item())
        merged.append(head.merge_flipped(predictions, predictions)[branch] * scale)
    expected = torch.tensor([-34.0, -30.0] if task == "det" else [108.0, 112.0])
    assert (results[0] == expected).all() and (results[1] == expected).all()
    assert losses[0] == losses[1] > 0
    torch.testing.assert_close(*merged)


def test_published_weights_fit_the_default() -> None:
    cfg = get_multitask_cfg()
    assert cfg.MODEL.DET_HEAD.WH_SCALE == cfg.MODEL.POSE_HEAD.OFFSET_SCALE == 1.0
