"""Gradients of losses by shared features, against derivatives by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loss_gradients import gradient_table, measure_loss_gradients


class TwoLosses(nn.Module):
    """Features: the input times a weight, and twice that; losses of sums of them."""

    def __init__(self, **weights: float) -> None:
        super().__init__()
        self.backbone = Doubled()
        self.weights = weights

    def forward(self, batch):
        features = self.backbone(torch.stack([x["image"] for x in batch]))
        losses = {"loss_a": features["p2"].sum(), "loss_b": features["p3"].square().sum() / 2}
        return {name: weight * losses[name] for name, weight in self.weights.items()}


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return {"p2": self.weight * x, "p3": 2 * self.weight * x}


BATCH = [{"image": torch.tensor([3.0, 0.0, 4.0, 0.0])}]


def test_norms_and_shares_by_hand():
    a, b = measure_loss_gradients(TwoLosses(loss_a=0.5, loss_b=3.0), [BATCH])
    # of a: 0.5 for each of four; of b: 3 p3 = 3 * 2 * (3, 0, 4, 0), norm 30
    assert (a.name, a.loss, a.gradient) == ("loss_a", 3.5, 1.0)
    assert (b.name, b.loss, b.gradient) == ("loss_b", 150.0, 30.0)
    assert (a.share, b.share) == (pytest.approx(1 / 31), pytest.approx(30 / 31))
    assert a.cosine == b.cosine == 0  # different maps


def test_means_over_batches():
    empty = [{"image": torch.zeros(4)}]
    (b,) = measure_loss_gradients(TwoLosses(loss_b=1.0), [BATCH, empty])
    assert b.gradient == 5.0 and b.loss == 25.0 and b.share == 1.0


def test_nothing_is_learned():
    model = TwoLosses(loss_a=1.0, loss_b=1.0)
    measure_loss_gradients(model, [BATCH])
    assert model.backbone.weight.grad is None and not model.backbone._forward_hooks


def test_cosine_of_losses_that_disagree():
    class Opposed(TwoLosses):
        def forward(self, batch):
            p2 = self.backbone(torch.stack([x["image"] for x in batch]))["p2"]
            return {"up": p2.sum(), "down": -2 * p2.sum(), "none": p2.new_zeros(())}

    up, down = measure_loss_gradients(Opposed(), [BATCH])  # the third depends on nothing
    assert up.cosine == pytest.approx(-1) == down.cosine


def test_table():
    rows = measure_loss_gradients(TwoLosses(loss_a=0.5, loss_b=3.0), [BATCH])
    lines = gradient_table(rows).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        *("loss_a", "3.5", "1", "3.2", "+0.00")
    ]


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (nn.Linear(1, 1), [BATCH], "Linear has no backbone"),
        (TwoLosses(loss_a=1.0), [], "found no batch"),
        (TwoLosses(), [BATCH], "found no loss"),
    ],
)
def test_bad_arguments(model, batches, message):
    with pytest.raises(ValueError, match=message):
        measure_loss_gradients(model, batches)
