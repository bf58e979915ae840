"""Labels that are not sure: their losses are multiplied by their confidence, all else stays."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, build_heads
from d2_multitask.losses import dice_loss, masked_binary_cross_entropy, masked_cross_entropy
from support import TinyBackbone, labelled_image


def gradients(task: str, batch: list[dict], box_loss: str = "l1") -> tuple[dict, dict]:
    """Losses, and gradients of the predictions, (N, C, h, w), by their names."""
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = [task]
    cfg.MODEL.CENTER_HEAD.NUM_CLASSES = 3
    cfg.MODEL.DET_HEAD.BOX_LOSS = box_loss
    head = build_heads(cfg, TinyBackbone().output_shape())[task]
    images = ImageList.from_tensors([entry["image"].float() for entry in batch], 8)
    predictions = head.layers(TinyBackbone()(images.tensor))
    predictions = {key: value.detach().requires_grad_() for key, value in predictions.items()}
    losses = head.losses(predictions, head.targets(BatchLabels(batch, images)))
    sum(losses.values()).backward()
    return losses, {key: value.grad for key, value in predictions.items()}


def with_field(entry: dict, name: str, values: Tensor) -> dict:
    instances = entry["instances"][:]
    instances.set(name, values)
    return {**entry, "instances": instances}


CASES = [
    ("center", "gt_confidence", ["offset"], "l1"),
    ("det", "gt_confidence", ["wh"], "l1"),
    ("det", "gt_confidence", ["ltrb"], "giou"),
    ("pose", "gt_keypoint_confidence", ["keypoint_offset", "keypoint_heatmap_offset"], "l1"),
]


@pytest.mark.parametrize(("task", "field", "names", "box_loss"), CASES)
def test_objects_count_by_their_confidence(
    task: str, field: str, names: list[str], box_loss: str
) -> None:
    batch = [labelled_image(seed=0), labelled_image(seed=1)]
    shape = (len(batch[0]["instances"]), *([17] if task == "pose" else []))
    losses, sure = gradients(task, batch, box_loss)
    ones = [with_field(batch[0], field, torch.ones(shape)), batch[1]]
    assert gradients(task, ones, box_loss)[0] == losses, "as without the field, bit by bit"
    halves = [with_field(batch[0], field, torch.full(shape, 0.5)), batch[1]]
    unsure = gradients(task, halves, box_loss)[1]
    for name in names:
        assert sure[name][0].any()
        assert torch.allclose(unsure[name][0], sure[name][0] / 2)
        assert torch.equal(unsure[name][1], sure[name][1]), "the other image has true labels"


@pytest.mark.parametrize(
    ("task", "field", "name"),
    [
        ("center", "gt_confidence", "heatmap"),
        ("pose", "gt_keypoint_confidence", "keypoint_heatmap"),
    ],
)
def test_peaks_count_by_their_confidence(task: str, field: str, name: str) -> None:
    """Only positives: what surrounds an object is background whoever found the object."""
    batch = [labelled_image(seed=0)]
    shape = (len(batch[0]["instances"]), *([17] if task == "pose" else []))
    sure = gradients(task, batch)[1][name]
    unsure = gradients(task, [with_field(batch[0], field, torch.full(shape, 0.25))])[1][name]
    positive = sure < 0
    assert positive.any() and (sure > 0).any()
    assert torch.allclose(unsure[positive], sure[positive] / 4)
    assert torch.equal(unsure[~positive], sure[~positive])


@pytest.mark.parametrize("task", ["seg", "foreground"])
def test_pixels_count_by_their_confidence(task: str) -> None:
    batch = [labelled_image(seed=0), labelled_image(seed=1)]
    key = {"seg": "sem_seg"}.get(task, task)
    for entry in batch:
        entry[key] = entry["sem_seg"].clamp(max=1)
    losses, sure = gradients(task, batch)
    confidence = torch.ones(batch[0][key].shape)
    ones = [{**batch[0], f"{key}_confidence": confidence}, batch[1]]
    for name, loss in gradients(task, ones)[0].items():
        assert torch.allclose(loss, losses[name])
    confidence[:, :24] = 0
    gradient = gradients(task, [{**batch[0], f"{key}_confidence": confidence}, batch[1]])[1][key]
    assert not gradient[0, :, :, :5].any() and gradient[0, :, :, 7:].any()
    assert torch.allclose(gradient[1], sure[key][1])


def test_losses_of_pixels_by_hand() -> None:
    """Logits of 0 give the logarithm of 2 in each pixel, and probabilities of a half."""
    target = torch.tensor([[[0, 1, 255]]])
    weight = torch.tensor([[[1.0, 0.5, 1.0]]])
    log2 = torch.tensor(2.0).log()
    cross_entropy = masked_cross_entropy(torch.zeros(1, 2, 1, 3), target, 255, weight)
    assert cross_entropy == pytest.approx(1.5 * log2 / 2)
    binary = masked_binary_cross_entropy(torch.zeros(1, 1, 3), target, 255, weight)
    assert binary == pytest.approx(1.5 * log2 / 2)
    dice = dice_loss(torch.zeros(1, 1, 3), target, 255, weight)
    assert dice == pytest.approx(1 - (2 * 0.25 + 1) / (0.75 + 0.5 + 1))
