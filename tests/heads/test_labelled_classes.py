"""What a dataset does not label teaches nothing, class by class."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, build_heads
from d2_multitask.heads.dense import with_hidden_classes
from support import TinyBackbone, labelled_image, without

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


def squares(seed: int, labelled: list[bool] | None) -> dict:
    """A red square, class 0, and a green one, class 1, of which some are labelled."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(4, generator=generator)[:2] * 16
    columns = torch.randint(0, 48, (2,), generator=generator)
    image = torch.zeros(3, 64, 64)
    boxes = torch.stack([columns, rows, columns + 12, rows + 12], 1).float()
    for channel, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
        image[channel, y0:y1, x0:x1] = 1
    keep = torch.tensor([True, True] if labelled is None else labelled)
    instances = Instances((64, 64), gt_boxes=Boxes(boxes[keep]), gt_classes=torch.arange(2)[keep])
    return {"image": image, "instances": instances, "labelled_classes": keep}


def scores_of(batches: list[list[dict]]) -> list[float]:
    """What a centre head trained on the batches says at squares of both classes."""
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = ["center"]
    cfg.MODEL.CENTER_HEAD.NUM_CLASSES, cfg.MODEL.CENTER_HEAD.CONV_DIM = 2, 16
    backbone = TinyBackbone()
    head = build_heads(cfg, backbone.output_shape())["center"]
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=0.01)

    def run(batch: list[dict]) -> tuple[dict, dict]:
        images = ImageList.from_tensors([entry["image"] for entry in batch], 8)
        labels = BatchLabels(batch, images)
        return head.layers(backbone(images.tensor)), head.targets(labels)

    for batch in batches:
        predictions, targets = run(batch)
        optimizer.zero_grad()
        head.losses(predictions, targets)["loss_center_heatmap"].backward()
        optimizer.step()
    predictions, targets = run([squares(1000 + i, None) for i in range(16)])
    peaks = targets["heatmap"] == 1
    scores = predictions["heatmap"].sigmoid()
    return [float(scores[:, c][peaks[:, c]].mean()) for c in range(2)]


def test_two_sets_of_one_class_each_teach_what_each_teaches_alone() -> None:
    """Without ``labelled_classes`` the objects of the other class are negatives in each set."""
    reds = [[squares(2 * i, [True, False]) for i in range(2 * n, 2 * n + 2)] for n in range(250)]
    greens = [
        [squares(2 * i + 1, [False, True]) for i in range(2 * n, 2 * n + 2)] for n in range(250)
    ]
    joint = [red + green for red, green in zip(reds, greens, strict=True)]
    negatives = [[without(entry, "labelled_classes") for entry in batch] for batch in joint]
    alone = [scores_of(reds)[0], scores_of(greens)[1]]
    together, wrong = scores_of(joint), scores_of(negatives)
    for single, both, negative in zip(alone, together, wrong, strict=True):
        assert both > 0.9 * single > 0.6
        assert negative < 0.75 * both
