"""Losses against numbers worked out by hand, and the cases with nothing to learn."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from d2_multitask.losses import gathered_l1_loss, heatmap_focal_loss, masked_cross_entropy

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
            id="no labelled joint",
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
