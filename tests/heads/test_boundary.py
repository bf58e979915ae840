"""Boundaries: what is learned, what is answered."""

from __future__ import annotations

import torch
from detectron2.structures import ImageList

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, BoundaryHead, Decoded, build_heads
from support import TinyBackbone, labelled_image, without


def boundary_head(**keys: object) -> BoundaryHead:
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = ["boundary"]
    for key, value in keys.items():
        cfg.MODEL.BOUNDARY_HEAD[key] = value
    return build_heads(cfg, TinyBackbone().output_shape())["boundary"]


def test_labels_keep_every_boundary_pixel() -> None:
    """Lines are one pixel wide; nothing is resized."""
    batch = [labelled_image(40, 30, ((3, 5, 20, 33),)), without(labelled_image(8, 8), "boundary")]
    images = ImageList.from_tensors([x["image"].float() for x in batch], 16)
    labels = boundary_head().targets(BatchLabels(batch, images))["boundary"]
    assert labels.shape == (2, 48, 32)
    assert torch.equal(labels[0, :40, :30], batch[0]["boundary"])
    assert (labels[0, 40:] == 255).all() and (labels[1] == 255).all()


def test_predictions_have_the_inputs_resolution() -> None:
    features = {"p2": torch.rand(1, 8, 12, 8)}
    assert boundary_head().layers(features)["boundary"].shape == (1, 1, 48, 32)
    assert boundary_head(UPSCALE=1).layers(features)["boundary"].shape == (1, 1, 12, 8)


def test_a_line_in_its_place_is_better_than_one_beside_it() -> None:
    head = boundary_head()
    entry = labelled_image(64, 48, ((9, 7, 30, 50),))
    images = ImageList.from_tensors([entry["image"].float()], 8)
    targets = head.targets(BatchLabels([entry], images))
    logits = (targets["boundary"][:, None] == 1) * 8.0 - 4.0

    def loss(shift: int) -> float:
        return head.losses({"boundary": logits.roll(shift, -1)}, targets)["loss_boundary"].item()

    assert loss(0) < 0.05 < loss(1) and loss(0) < 0.05 < loss(-1)


def test_answer_is_a_probability_at_the_output_size() -> None:
    head = boundary_head()
    logits = torch.full((1, 1, 64, 48), -20.0)
    logits[0, 0, 10] = 20.0
    decoded = Decoded()
    images = ImageList.from_tensors([torch.zeros(3, 60, 48)], 8)
    head.inference({"boundary": logits}, images, decoded)
    same = head.postprocess(decoded, 0, (60, 48), (60, 48))["boundary"]
    assert same.shape == (60, 48)
    assert (same[10] > 0.99).all() and same.sum() < 48 * 1.01
    double = head.postprocess(decoded, 0, (60, 48), (120, 96))["boundary"]
    assert double.shape == (120, 96) and double[:, 5].argmax().item() in (20, 21)
