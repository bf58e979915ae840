"""Refined boxes: what is read where, from which boxes it is learned, and what it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import ImageList
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, Decoded, TaskHeads, build_heads
from d2_multitask.heads.refine import BoxRefinement, values_at_points
from d2_multitask.losses import giou_of_pairs
from d2_multitask.targets.decode import Peaks
from d2_multitask.targets.encode import to_device
from support import TinyBackbone, labelled_image, without


def some_boxes(*shape: int, seed: int = 0) -> Tensor:
    """Boxes (*shape, 4) inside of 16x12 cells."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand((*shape, 2, 2), generator=generator) * torch.tensor([10.0, 6.0])
    low = corners.amin(-2)
    return torch.cat([low, corners.amax(-2) + 2], -1)


def heads(*options: Any) -> TaskHeads:
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.merge_from_list(["MODEL.DET_HEAD.REFINE.STAGES", 2, "MODEL.CENTER_HEAD.NUM_CLASSES", 3])
    cfg.merge_from_list(["MODEL.TASKS", ["det"], *options])
    return build_heads(cfg, TinyBackbone().output_shape())


def losses_of(batch: list[dict], *options: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Losses of the refinement and their gradient by the features, (N, C, h, w)."""
    network = heads(*options)
    images = ImageList.from_tensors([entry["image"].float() for entry in batch], 8)
    features = {key: x.detach() for key, x in TinyBackbone()(images.tensor).items()}
    features["p2"].requires_grad_()
    losses = network.losses(features, batch, images)
    losses = {
        key: x for key, x in losses.items() if key in ("loss_det_refined", "loss_det_quality")
    }
    sum(losses.values()).backward()
    return losses, features["p2"].grad


def test_ious_are_torchvisions() -> None:
    boxes, others = some_boxes(2, 5), some_boxes(2, 3, seed=1)
    _, every = giou_of_pairs(boxes[:, :, None], others[:, None])
    for image in range(2):
        expected = box_iou(boxes[image], others[image])
        assert torch.allclose(every[image], expected, atol=1e-6)
    giou, iou = giou_of_pairs(boxes[:, :3], others)
    pairs = boxes[:, :3].flatten(0, 1), others.flatten(0, 1)
    assert torch.allclose(giou.flatten(), generalized_box_iou(*pairs).diagonal(), atol=1e-6)
    assert torch.allclose(iou.flatten(), box_iou(*pairs).diagonal(), atol=1e-6)


def test_points_are_read_over_and_around_the_box() -> None:
    """On a map whose values are the coordinates of the cells' centres."""
    y, x = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    box = torch.tensor([[[4.0, 2.0, 8.0, 10.0]]])
    read = values_at_points(torch.stack([x, y])[None], box)
    read_x, read_y = read.view(7, 7, 2).unbind(-1)
    assert torch.allclose(read_x[0], torch.linspace(3.5, 8.5, 7), atol=1e-4)
    assert torch.allclose(read_y[:, 0], torch.linspace(1.0, 11.0, 7), atol=1e-4)
    assert torch.allclose(read_x[0], read_x[6]), "rows differ in y only"


def test_a_fresh_refinement_leaves_boxes_as_they_are() -> None:
    refinement = BoxRefinement(8, 4, stages=2)
    boxes, scores = some_boxes(2, 5), torch.rand(2, 5)
    refined, rescored = refinement.inference(refinement(torch.rand(2, 8, 12, 16)), boxes, scores)
    assert (refined - boxes).abs().max() < 0.3
    assert torch.allclose(rescored, (scores * 0.1).sqrt(), atol=0.05)


def test_it_learns_to_find_the_sides_and_how_well_it_did() -> None:
    """Objects are rectangles of ones; the found boxes are up to a cell off, or nowhere near one."""
    torch.manual_seed(0)
    truth = torch.tensor([[[2.0, 2.0, 9.0, 10.0]], [[6.0, 1.0, 14.0, 8.0]]])
    image = torch.zeros(2, 1, 12, 16)
    image[0, 0, 2:10, 2:9] = image[1, 0, 1:8, 6:14] = 1
    refinement = BoxRefinement(1, 4, stages=2, channels=4)
    optimizer = torch.optim.Adam(refinement.parameters(), lr=0.01)
    targets = {
        "boxes": truth,
        "classes": torch.zeros(2, 1, dtype=torch.int64),
        "weight": torch.ones(2, 1),
        "class_labelled": torch.ones(2, 1, dtype=torch.bool),
        "ignored": torch.zeros(2, 1, 12, 16, dtype=torch.bool),
    }
    zeros = torch.zeros(2, 2, dtype=torch.int64)
    peaks = Peaks(torch.ones(2, 2), zeros, zeros[..., None].expand(-1, -1, 2))
    decoded = Decoded(peaks, found=torch.ones(2, 2, dtype=torch.bool))

    def found() -> Tensor:
        off = truth + torch.rand_like(truth) * 2 - 1
        return torch.cat([off, torch.tensor([0.0, 0.0, 2.0, 1.0]).expand(2, 1, 4)], 1)

    for _ in range(150):
        optimizer.zero_grad()
        near = truth + torch.randn_like(truth) * 0.5
        losses = refinement.losses(refinement(image), found(), decoded, {**targets, "near": near})
        sum(losses.values()).backward()
        optimizer.step()
    before = found()
    boxes, scores = refinement.inference(refinement(image), before, torch.ones(2, 2))
    iou, iou_before = (giou_of_pairs(x[:, 0], truth[:, 0])[1] for x in (boxes, before))
    assert iou.min() > 0.9 and iou_before.max() < 0.9
    assert (scores[:, 0] > 0.8).all() and (scores[:, 1] < 0.3).all(), "roots of the IoU"


def test_an_image_without_labels_teaches_nothing() -> None:
    batch = [labelled_image(seed=0), labelled_image(seed=1)]
    gradient = losses_of([batch[0], without(batch[1], "instances")])[1]
    assert gradient[0].any() and not gradient[1].any()
    losses, gradient = losses_of([without(entry, "instances") for entry in batch])
    assert not any(losses.values()) and not gradient.any()


def test_ranks_that_fill_up_the_batch_teach_nothing() -> None:
    """A GPU keeps all of them, a processor those that another image of the batch needs."""
    torch.manual_seed(0)
    refinement, read_map = BoxRefinement(8, 4, stages=2), torch.rand(1, 16, 12, 16)
    entry = labelled_image(seed=0)
    images = ImageList.from_tensors([entry["image"].float()], 8)
    targets = refinement.targets(BatchLabels([entry], images))
    boxes, zeros = some_boxes(1, 5), torch.zeros(1, 5, dtype=torch.int64)
    boxes[0, 4] = entry["instances"].gt_boxes.tensor[0] / 4
    peaks = Peaks(torch.rand(1, 5), zeros, torch.stack([zeros, zeros], -1))
    few = Peaks(*(x[:, :3] for x in (peaks.scores, peaks.channels, peaks.xy)))
    found = torch.tensor([[True, True, True, False, False]])
    every = refinement.losses(read_map, boxes, Decoded(peaks, found=found), targets)
    first = refinement.losses(read_map, boxes[:, :3], Decoded(few, found=found[:, :3]), targets)
    for name, loss in every.items():
        torch.testing.assert_close(loss, first[name])


def test_unknown_boxes_are_not_called_wrong() -> None:
    """In crowds, and of classes that the image does not label; those at its objects still learn."""
    entry = labelled_image(seed=0)
    empty = {**entry, "instances": entry["instances"][:0]}
    assert losses_of([empty])[1].any(), "of an image without objects all boxes are wrong"
    crowd = torch.ones((64, 48), dtype=torch.bool)
    assert not losses_of([{**empty, "ignore_mask": crowd}])[1].any()
    none = torch.zeros(3, dtype=torch.bool)
    assert not losses_of([{**empty, "labelled_classes": none}])[1].any()
    assert losses_of([{**entry, "ignore_mask": crowd}])[1].any()


def test_objects_count_by_their_confidence() -> None:
    entry = labelled_image(seed=0)
    fields = {}
    for value in (0.0, 0.5, 1.0):
        entry["instances"].gt_confidence = torch.full((len(entry["instances"]),), value)
        fields[value] = losses_of([entry])[0]["loss_det_refined"]
    assert fields[0.0] == 0 and torch.allclose(fields[0.5] * 2, fields[1.0])
    del entry["instances"]._fields["gt_confidence"]
    assert losses_of([entry])[0]["loss_det_refined"] == fields[1.0]


def test_peaks_below_the_threshold_are_no_objects_whatever_their_iou() -> None:
    """Else an image's answers would depend on the others of its batch, and on the export."""
    head = heads()["det"]
    torch.nn.init.constant_(head.refinement.quality.bias, 9.0)
    images = ImageList.from_tensors([torch.zeros(3, 64, 48)], 8)
    scores = torch.tensor([[0.5, 0.005]])
    cells = torch.tensor([[[3, 4], [8, 9]]])
    decoded = Decoded(Peaks(scores, torch.zeros(1, 2, dtype=torch.int64), cells))
    decoded.found, decoded.center_xy = scores > 0.01, cells + 0.5
    decoded.objects["scores"] = scores
    features = TinyBackbone()(images.tensor)
    head.inference(head.layers(features), images, decoded)
    found = decoded.objects["scores"][0]
    assert found[0] > 0.6 and found[1] == 0


def test_targets_of_images_with_different_numbers_of_objects() -> None:
    batch = [labelled_image(seed=0), labelled_image(seed=1)]
    batch[1]["instances"] = batch[1]["instances"][:1]
    images = ImageList.from_tensors([entry["image"].float() for entry in batch], 8)
    targets = to_device(heads()["det"].targets(BatchLabels(batch, images)), torch.device("cpu"))
    table = targets["refine"]
    for image, entry in enumerate(batch):
        count = len(entry["instances"])
        boxes = entry["instances"].gt_boxes.tensor / 4
        assert torch.allclose(table["boxes"][image, :count], boxes)
        assert table["classes"][image].tolist() == [
            *entry["instances"].gt_classes.tolist(),
            *[-1] * (table["classes"].shape[1] - count),
        ]


@pytest.mark.parametrize(
    ("key", "value"), [("SCORE_POWER_TEST", 1.5), ("SCORE_POWER_TEST", -0.1), ("STAGES", -1)]
)
def test_numbers_out_of_range_are_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"MODEL\.DET_HEAD\.REFINE\.{key}: found {value}, expe"):
        heads(f"MODEL.DET_HEAD.REFINE.{key}", value)
