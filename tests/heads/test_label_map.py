"""Semantic and part segmentation are the same head under two names."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList
from support import TinyBackbone, labelled_image

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import Decoded, LabelMapHead, build_heads


def head_of(task: str) -> LabelMapHead:
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = [task]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 64
    cfg.MODEL.SEM_SEG_HEAD.NORM = ""
    cfg.MODEL.PARTS_HEAD.LOSS_WEIGHT = 1.0
    return build_heads(cfg, TinyBackbone().output_shape())[task]


def test_parts_learn_from_part_labels_what_segmentation_learns_from_its_own() -> None:
    seg, parts = head_of("seg"), head_of("parts")
    parts.load_state_dict(
        {k.replace("sem_seg", "part_seg"): v for k, v in seg.state_dict().items()}
    )
    entry = labelled_image()
    images = ImageList.from_tensors([entry["image"].float()], 8)
    features = TinyBackbone()(images.tensor)
    swapped = {**entry, "sem_seg": entry["part_seg"]}
    one = parts.losses(parts.layers(features), parts.targets([entry], images))
    other = seg.losses(seg.layers(features), seg.targets([swapped], images))
    assert set(one) == {"loss_parts"} and set(other) == {"loss_seg"}
    assert one["loss_parts"].item() == pytest.approx(other["loss_seg"].item())


def test_a_perfect_prediction_gives_the_labels_back() -> None:
    """But for single pixels at corners, which interpolation rounds off."""
    head = head_of("parts")
    entry = labelled_image(64, 48, ((8, 12, 24, 48),))  # edges on the grid of stride 4
    images = ImageList.from_tensors([entry["image"].float()], 8)
    labels = head.targets([entry], images)["part_seg"]
    logits = torch.nn.functional.one_hot(labels[:, ::4, ::4], 7).permute(0, 3, 1, 2) * 50.0
    decoded = Decoded()
    head.inference({"part_seg": logits}, images, decoded)
    answer = head.postprocess(decoded, 0, (64, 48), (64, 48))["part_seg"]
    assert answer.shape == (7, 64, 48)
    assert (answer.argmax(0) != entry["part_seg"]).sum() <= 8
