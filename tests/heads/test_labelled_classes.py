"""What a dataset does not label teaches nothing, class by class."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, build_heads
from d2_multitask.heads.dense import with_hidden_classes
from support import TinyBackbone, labelled_image

PARTIAL, FULL = labelled_image(seed=0), labelled_image(seed=1)
PARTIAL["labelled_classes"] = torch.tensor([True, False, True])
PARTIAL["labelled_keypoints"] = torch.arange(17) != 5
PARTIAL["instances"].gt_keypoints.tensor[:, 5] = 0


def gradients(task: str, batch: list[dict], name: str) -> Tensor:
    """Of a prediction, by channel: (N, C, h, w)."""
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = [task]
    cfg.MODEL.CENTER_HEAD.NUM_CLASSES = 3
    head = build_heads(cfg, TinyBackbone().output_shape())[task]
    images = ImageList.from_tensors([entry["image"].float() for entry in batch], 8)
    predictions = head.layers(TinyBackbone()(images.tensor))
    predictions = {key: value.detach().requires_grad_() for key, value in predictions.items()}
    losses = head.losses(predictions, head.targets(BatchLabels(batch, images)))
    sum(losses.values()).backward()
    return predictions[name].grad


def test_centres_of_a_class_that_is_not_labelled() -> None:
    gradient = gradients("center", [PARTIAL, FULL], "heatmap")
    assert (gradient[0, 1] == 0).all()
    assert all((channel != 0).any() for channel in (*gradient[0, [0, 2]], *gradient[1]))


def test_crowds_and_classes_that_are_not_labelled() -> None:
    crowd = torch.zeros((64, 48), dtype=torch.bool)
    crowd[:16] = True
    gradient = gradients("center", [{**PARTIAL, "ignore_mask": crowd}], "heatmap")[0]
    assert (gradient[1] == 0).all() and (gradient[2, :4] == 0).all()
    assert (gradient[2, 4:] != 0).any()


def test_keypoints_that_are_not_labelled() -> None:
    gradient = gradients("pose", [PARTIAL, FULL], "keypoint_heatmap")
    assert (gradient[0, 5] == 0).all() and (gradient[1, 5] != 0).any()
    offsets = gradients("pose", [PARTIAL], "keypoint_offset")[0].unflatten(0, (17, 2))
    assert (offsets[5] == 0).all() and (offsets[4] != 0).any()


def test_background_that_may_be_a_class_that_is_not_labelled() -> None:
    """Two classes are hidden: against probabilities that are added up one by one."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((1, 5, 2, 3), generator=generator, dtype=torch.float64)
    hidden = torch.tensor([False, False, True, False, True])
    probability = logits.softmax(1)[0]
    expected = torch.stack([probability[0] + probability[2] + probability[4], probability[1],
                            probability[3]])  # fmt: skip
    found = with_hidden_classes(logits, [hidden]).softmax(1)[0]
    torch.testing.assert_close(found[[0, 1, 3]].double(), expected, rtol=1e-5, atol=1e-6)
    assert (found[[2, 4]] == 0).all()
    assert with_hidden_classes(logits, [None]) is logits


@pytest.mark.parametrize("label", [0, 1, 255])
def test_gradients_of_a_class_that_is_not_labelled(label) -> None:
    """On background it is pushed up and down with background; elsewhere it is left alone."""
    logits = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    merged = with_hidden_classes(logits, [torch.tensor([False, False, True]), None])
    target = torch.full((2, 4, 4), label)
    loss = torch.nn.functional.cross_entropy(merged, target, ignore_index=255, reduction="sum")
    loss.backward()
    assert logits.grad.isfinite().all()
    share = logits.detach()[0, [0, 2]].softmax(0)
    both = logits.grad[0, [0, 2]]
    torch.testing.assert_close(both, share * both.sum(0), rtol=1e-4, atol=1e-6)
    assert ((both.sum(0) < 0) == (label == 0)).all()
