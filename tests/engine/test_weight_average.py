from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from d2_multitask.engine.hooks import WeightAverage


class Counter(nn.Module):
    """A parameter, a running statistic and a counter that follow given numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.frozen = nn.Parameter(torch.tensor([7.0]), requires_grad=False)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("constant", torch.tensor([5.0]), persistent=False)

    def put(self, value: float, step: int) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.mean.fill_(-value)
            self.count.fill_(step)


VALUES = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0, 5.0, 3.5, 8.0, 9.5, 7.0]


def average_of(values: list[float], decay: float) -> float:
    """The formula of the docstring, one number at a time."""
    average = values[0]
    for step, value in enumerate(values[1:], start=1):
        d = min(decay, (1 + step) / (10 + step))
        average = d * average + (1 - d) * value
    return average


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("count", [1, 2, 13])
def test_same_as_the_formula(decay, count):
    model = Counter()
    average = WeightAverage(model, decay)
    for step, value in enumerate(VALUES[:count]):
        model.put(value, step)
        average.update(model)
    expected = average_of(VALUES[:count], decay)
    assert average.model.weight.tolist() == pytest.approx([expected] * 3, abs=1e-5)
    assert average.model.mean.tolist() == pytest.approx([-expected] * 2, abs=1e-5)
    assert average.model.count.item() == count - 1
    assert average.model.frozen.item() == 7
    assert average.model.constant.item() == 5
    assert average.num_updates == count


def test_the_model_is_left_alone():
    model = Counter()
    average = WeightAverage(model, 0.5)
    for step, value in enumerate(VALUES[:4]):
        model.put(value, step)
        average.update(model)
    assert model.weight.tolist() == [VALUES[3]] * 3
    assert average.model is not model


def test_continued_from_a_checkpoint_is_as_if_never_stopped():
    model = Counter()
    whole = WeightAverage(model, 0.9)
    for step, value in enumerate(VALUES[:5]):
        model.put(value, step)
        whole.update(model)
    continued = WeightAverage(Counter(), 0.9)
    continued.load_state_dict(copy.deepcopy(whole.state_dict()))
    assert continued.num_updates == 5
    for step, value in enumerate(VALUES[5:]):
        model.put(value, step)
        whole.update(model)
        continued.update(model)
    assert continued.model.weight.tolist() == whole.model.weight.tolist()
    assert continued.model.weight[0].item() == pytest.approx(average_of(VALUES, 0.9), abs=1e-5)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_decay_out_of_range(decay):
    with pytest.raises(
        ValueError, match=r"SOLVER\.EMA\.DECAY: found .*expected a number in \[0, 1"
    ):
        WeightAverage(Counter(), decay)
