"""Semantic and part segmentation are the same head under two names."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, Decoded, LabelMapHead, build_heads
from d2_multitask.heads.dense import every_nth_pixel
from support import TinyBackbone, labelled_image


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
    one = parts.losses(parts.layers(features), parts.targets(BatchLabels([entry], images)))
    other = seg.losses(seg.layers(features), seg.targets(BatchLabels([swapped], images)))
    assert set(one) == {"loss_parts"} and set(other) == {"loss_seg"}
    assert one["loss_parts"].item() == pytest.approx(other["loss_seg"].item())


def test_a_perfect_prediction_gives_the_labels_back() -> None:
    """But for single pixels at corners, which interpolation rounds off."""
    head = head_of("parts")
    entry = labelled_image(64, 48, ((8, 12, 24, 48),))  # edges on the grid of stride 4
    images = ImageList.from_tensors([entry["image"].float()], 8)
    labels = head.targets(BatchLabels([entry], images))["part_seg"]
    logits = torch.nn.functional.one_hot(labels[:, ::4, ::4], 7).permute(0, 3, 1, 2) * 50.0
    decoded = Decoded()
    head.inference({"part_seg": logits}, images, decoded)
    answer = head.postprocess(decoded, 0, (64, 48), (64, 48))["part_seg"]
    assert answer.shape == (7, 64, 48)
    assert (answer.argmax(0) != entry["part_seg"]).sum() <= 8


def test_every_nth_pixel_is_the_middle_one_on_average() -> None:
    column = torch.arange(8).expand(2, 8, 8)
    assert torch.equal(every_nth_pixel(column, 1), column)
    assert every_nth_pixel(column, 2)[:, 0].tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert every_nth_pixel(column, 4)[:, 0].tolist() == [[1, 5], [2, 6]]
    assert every_nth_pixel(column, 3)[:, 0].tolist() == [[1, 4], [1, 4]]


@pytest.mark.parametrize("loss_stride", [2, 4])
def test_fewer_pixels_teach_nearly_the_same(loss_stride: int) -> None:
    every, some = head_of("seg"), head_of("seg")
    some.loss_stride = loss_stride
    batch = [labelled_image(seed=1), labelled_image(40, 32, seed=2)]
    images = ImageList.from_tensors([x["image"].float() / 255 for x in batch], 8)
    predictions = every.layers(TinyBackbone()(images.tensor))
    targets = every.targets(BatchLabels(batch, images))
    losses = [head.losses(predictions, targets)["loss_seg"].item() for head in (every, some)]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


def test_loss_stride_must_fit() -> None:
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS, cfg.MODEL.SEM_SEG_HEAD.LOSS_STRIDE = ["seg"], 3
    with pytest.raises(ValueError, match="LOSS_STRIDE.*found 3, expected a divisor of 4"):
        build_heads(cfg, TinyBackbone().output_shape())
