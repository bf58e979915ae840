"""Losses against numbers worked out by hand, and the cases with nothing to learn."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.utils import comm
from torchvision.ops import generalized_box_iou_loss

from d2_multitask.losses import (
    average_over_workers,
    balanced_binary_cross_entropy,
    dice_loss,
    direction_loss,
    gathered_giou_loss,
    gathered_l1_loss,
    heatmap_focal_loss,
    masked_binary_cross_entropy,
    masked_cross_entropy,
    worker_weight,
)

LOG2 = math.log(2)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ([1.0], 0.25 * LOG2),  # a positive at p = 0.5
        ([0.0], 0.25 * LOG2),  # a negative at p = 0.5, divided by 1, not by 0
        ([0.5], 0.5**4 * 0.25 * LOG2),  # near a centre the penalty is (1 - y)^4
        ([1.0, 1.0, 0.0], 3 * 0.25 * LOG2 / 2),  # divided by the two positives
    ],
)
def test_focal_loss_at_one_half(target: list[float], expected: float) -> None:
    y = torch.tensor(target).view(1, 1, 1, -1)
    assert heatmap_focal_loss(torch.zeros_like(y), y).item() == pytest.approx(expected, rel=1e-6)


def test_focal_loss_of_an_empty_map_at_the_start() -> None:
    """128 x 128 cells at p = 0.1: 16384 * 0.01 * -ln 0.9."""
    logits = torch.full((1, 1, 128, 128), math.log(0.1 / 0.9))
    loss = heatmap_focal_loss(logits, torch.zeros_like(logits))
    assert loss.item() == pytest.approx(16384 * 0.01 * 0.105360516, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_focal_loss_is_finite_for_saturated_logits(dtype: torch.dtype) -> None:
    """The clamped form gives infinity in half precision, where 1 - 1e-4 rounds to 1."""
    logits = torch.tensor([60.0, -60.0, 20.0, -20.0], dtype=dtype).view(1, 1, 1, 4)
    logits.requires_grad_()
    loss = heatmap_focal_loss(logits, torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 1, 4))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        60, rel=1e-3
    )  # two certain errors of 60 nats, two positives
    assert torch.isfinite(logits.grad).all()


def test_invalid_cells_cost_nothing() -> None:
    logits = torch.zeros(1, 2, 1, 3, requires_grad=True)
    target = torch.tensor([1.0, 0.0, 0.0]).expand(1, 2, 1, 3)
    valid = torch.tensor([True, True, False]).view(1, 1, 1, 3)
    loss = heatmap_focal_loss(logits, target, valid)
    loss.backward()
    assert loss.item() == pytest.approx(4 * 0.25 * LOG2 / 2, rel=1e-6)
    assert (logits.grad[..., 2] == 0).all()
    assert (logits.grad[..., :2] != 0).all()


def test_l1_is_a_mean_over_labelled_numbers() -> None:
    prediction = torch.tensor([[1.0, 5.0], [2.0, 2.0]])
    target = torch.tensor([[0.0, 2.0], [9.0, 4.0]])
    assert gathered_l1_loss(prediction, target).item() == pytest.approx((1 + 3 + 7 + 2) / 4)
    weight = torch.tensor([[1.0], [0.0]])
    assert gathered_l1_loss(prediction, target, weight).item() == pytest.approx((1 + 3) / 2)
    assert gathered_l1_loss(prediction, target, weight[:, 0]).item() == pytest.approx((1 + 3) / 2)


def test_unlabelled_not_a_number_does_not_leak() -> None:
    prediction = torch.zeros(2, 1, requires_grad=True)
    target = torch.tensor([[3.0], [float("nan")]])
    loss = gathered_l1_loss(prediction, target, torch.tensor([[1.0], [0.0]]))
    loss.backward()
    assert loss.item() == 3.0
    assert prediction.grad.tolist() == [[-1.0], [0.0]]


def test_cross_entropy_equals_pytorch_where_labelled() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    target[0, 0] = 255
    expected = F.cross_entropy(logits, target, ignore_index=255)
    assert masked_cross_entropy(logits, target, 255).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda x: heatmap_focal_loss(x, torch.zeros_like(x), x < -1e9), id="focal"),
        pytest.param(lambda x: gathered_l1_loss(x.view(-1)[:0], torch.zeros(0)), id="no objects"),
        pytest.param(
            lambda x: gathered_l1_loss(x, torch.zeros_like(x), torch.zeros_like(x)),
            id="no labelled keypoint",
        ),
        pytest.param(
            lambda x: masked_cross_entropy(x, torch.full((2, 3, 4), 255), 255), id="all ignored"
        ),
    ],
)
def test_nothing_to_learn_is_zero_with_a_graph(loss) -> None:
    x = torch.randn(2, 2, 3, 4, requires_grad=True)
    value = loss(x)
    value.backward()
    assert value.item() == 0
    assert x.grad is not None and (x.grad == 0).all()


def test_balanced_loss_at_one_half_is_log_two_whatever_the_weights() -> None:
    target = torch.tensor([[[1] + [0] * 98 + [255]]])
    for weight in (0.95, 0.5, 0.0):
        loss = balanced_binary_cross_entropy(torch.zeros(1, 1, 100), target, weight, 255)
        assert loss.item() == pytest.approx(LOG2, rel=1e-5)


def test_balanced_loss_weights_by_hand() -> None:
    """One positive at p = 1/4, three negatives at p = 1/2: HED's weights are 3/4 and 1/4."""
    logits = torch.tensor([[[math.log(1 / 3), 0.0, 0.0, 0.0]]])
    target = torch.tensor([[[1, 0, 0, 0]]])
    expected = (0.75 * math.log(4) + 3 * 0.25 * LOG2) / 1.5
    assert balanced_binary_cross_entropy(logits, target, 0.0, 255).item() == pytest.approx(expected)
    expected = (0.9 * math.log(4) + 3 * 0.1 * LOG2) / 1.2
    assert balanced_binary_cross_entropy(logits, target, 0.9, 255).item() == pytest.approx(expected)


@pytest.mark.parametrize("weight", [0.95, 0.0])
def test_balanced_loss_learns_from_images_without_a_boundary(weight: float) -> None:
    logits = torch.zeros((1, 20, 20), requires_grad=True)
    balanced_binary_cross_entropy(logits, torch.zeros(1, 20, 20).long(), weight, 255).backward()
    assert (logits.grad > 0).all()


def test_binary_loss_over_known_labels_only() -> None:
    logits = torch.tensor([[0.0, 100.0, math.log(3)]], requires_grad=True)
    loss = masked_binary_cross_entropy(logits, torch.tensor([[1, 255, 0]]), 255)
    loss.backward()
    assert loss.item() == pytest.approx((LOG2 + math.log(4)) / 2)
    assert logits.grad[0, 1] == 0


def test_dice_by_hand() -> None:
    """Two images and one without a label; a pixel without a label costs nothing.

    First: p = 1/2, 3/4, 1/4 on 1, 1, 0: 1 - (2 * 5/4 + 1) / (3/2 + 2 + 1) = 2/9. Second: nothing is
    there, p = 1/2 three times: 1 - 1 / (3/2 + 1) = 3/5.
    """
    three, third = math.log(3), math.log(1 / 3)
    logits = torch.tensor([[[0, three, third, 50.0]], [[0, 0, 0, 9.0]], [[1, 2, 3, 4.0]]])
    logits.requires_grad_()
    target = torch.tensor([[[1, 1, 0, 255]], [[0, 0, 0, 255]], [[255] * 4]])
    loss = dice_loss(logits, target, 255)
    loss.backward()
    assert loss.item() == pytest.approx((2 / 9 + 3 / 5) / 2)
    assert (logits.grad[target == 255] == 0).all() and (logits.grad[target != 255] != 0).all()


def test_dice_of_certain_answers() -> None:
    target = torch.tensor([[[1, 1, 0, 0]]])
    right = (target * 2 - 1) * 100.0
    assert dice_loss(right, target, 255).item() == pytest.approx(0)
    assert dice_loss(-right, target, 255).item() == pytest.approx(1 - 1 / 5)
    assert dice_loss(right.bfloat16(), target, 255).dtype == torch.float32


def test_direction_loss_by_angle() -> None:
    """0, 90 and 180 degrees off cost 0, 1 and 2, whatever the length; no label costs nothing."""
    prediction = torch.tensor([[3.0, 0.0], [0.0, 0.2], [-5.0, 0.0], [7.0, 7.0]])
    prediction = prediction.T.reshape(1, 2, 1, 4).requires_grad_()
    target = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 0.0]]).T.reshape(1, 2, 1, 4)
    loss = direction_loss(prediction, target)
    loss.backward()
    assert loss.item() == pytest.approx((0 + 1 + 2) / 3, abs=1e-6)
    assert (prediction.grad[..., 3] == 0).all()


def test_new_losses_with_nothing_to_learn() -> None:
    maps = torch.zeros((1, 2, 3, 3), requires_grad=True)
    unlabelled = torch.full((1, 3, 3), 255)
    losses = [
        balanced_binary_cross_entropy(maps[:, 0], unlabelled, 0.95, 255),
        balanced_binary_cross_entropy(maps[:, 0], unlabelled, 0.0, 255),
        masked_binary_cross_entropy(maps[:, 0], unlabelled, 255),
        dice_loss(maps[:, 0], unlabelled, 255),
        direction_loss(maps, torch.zeros(1, 2, 3, 3)),
    ]
    assert [loss.item() for loss in losses] == [0, 0, 0, 0, 0]
    sum(losses).backward()
    assert (maps.grad == 0).all()


def _two_process_gradient(rank: int, folder: str) -> None:
    """Gradient of one of two processes, which have one and no labelled numbers."""
    dist.init_process_group("gloo", f"file://{folder}/init", rank=rank, world_size=2)
    prediction = torch.full((4,), 0.5, requires_grad=True)
    weight = torch.tensor([1.0, 0, 0, 0]) if rank == 0 else torch.zeros(4)
    gathered_l1_loss(prediction, torch.zeros(4), weight).backward()
    torch.save(prediction.grad, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("others", "expected"), [(0, 0.5), (3, 2.0)])
def test_mean_over_two_processes_may_be_below_one(others, expected, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.add_(others))
    assert average_over_workers(torch.tensor(1)).item() == expected
    monkeypatch.setattr(dist, "all_reduce", lambda count: count)
    assert average_over_workers(torch.tensor(0)).item() == 0.5  # as one process divides by 1


@pytest.mark.slow
def test_few_labels_in_two_processes_weigh_as_in_one(tmp_path):
    torch.multiprocessing.spawn(_two_process_gradient, (str(tmp_path),), nprocs=2)
    # DistributedDataParallel averages the gradients of the processes.
    mean = sum(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)) / 2
    assert mean.tolist() == [1.0, 0, 0, 0]


def test_weight_of_a_workers_mean(monkeypatch) -> None:
    assert worker_weight(torch.tensor(5)) == 1 and worker_weight(torch.tensor(0)) == 0
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.add_(3))
    assert worker_weight(torch.tensor(1)) == 0.5  # 1 of 4 labels, a mean of 2 a worker
    assert worker_weight(torch.tensor(0)) == 0


def test_counts_are_not_copied_to_the_gpu(monkeypatch) -> None:
    """``torch.tensor`` makes its number on the CPU, and the copy waits for all work before it."""
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2]])
    monkeypatch.delattr(torch, "tensor")
    assert gathered_l1_loss(boxes, boxes + 1) == 1
    assert gathered_giou_loss(boxes, boxes).abs() < 1e-5


def test_the_share_of_negatives_is_that_of_all_workers(monkeypatch) -> None:
    """HED's weight: here 2 of 4 pixels are positive, on the other worker 1 of 6."""
    others = iter([1, 6, 0])
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.add_(next(others)))
    target = torch.tensor([1, 1, 0, 0]).view(1, 1, 4)
    logits = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 4)
    weights, costs = [0.7, 0.7, 0.3, 0.3], [math.log1p(math.exp(-1.0))] * 2 + [LOG2] * 2
    expected = sum(w * c for w, c in zip(weights, costs, strict=True)) / (sum(weights) / 2)
    found = balanced_binary_cross_entropy(logits, target, 0, 255)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_giou_loss_is_torchvisions() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 50, 2, 2, generator=generator) * 20
    corners[1, :10] = corners[0, :10] + 40  # apart
    boxes, target = torch.cat([corners.amin(2), corners.amax(2)], -1)
    boxes.requires_grad_()
    found = gathered_giou_loss(boxes, target)
    expected = generalized_box_iou_loss(boxes, target, reduction="mean")
    assert found.item() == pytest.approx(expected.item())
    gradients = [torch.autograd.grad(loss, boxes)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_focal_loss_is_the_same_with_and_without_known_peaks() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 2, 3, 4, 5, generator=generator).clamp(max=0.9)
    target[0, 1, 2, 3] = target[1, 0, 0, 0] = target[1, 2, 3, 4] = 1
    valid = torch.rand(2, 1, 4, 5, generator=generator) > 0.2
    valid[1, :, 0, 0] = False  # a peak that does not count
    peaks = (target == 1).nonzero(as_tuple=True)
    found = heatmap_focal_loss(logits, target, valid, peaks=peaks)
    assert found.item() == pytest.approx(heatmap_focal_loss(logits, target, valid).item())
