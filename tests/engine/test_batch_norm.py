"""Running statistics in two processes."""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.engine.hooks import WeightAverage, average_statistics
from d2_multitask.engine.signals import StopOnSignal
from d2_multitask.engine.trainer import MultitaskTrainer, update_averages
from engine_support import registered_people, tiny_cfg
from worker_support import in_two_processes


def network() -> nn.Module:
    torch.manual_seed(0)
    without = nn.BatchNorm2d(4, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), FrozenBatchNorm2d(4), without)


def batch(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(2, 3, 5, 5, generator=generator) * (1 + number)


def after_three_steps(rank: int) -> tuple[dict, dict]:
    """State of the network and of its averaged weights, each process with images of its own."""
    model = network()
    average = WeightAverage(model, 0.5)
    trainer = SimpleNamespace(
        model=model, weight_average=average, _trainer=SimpleNamespace(weights_changed=True)
    )
    for step in range(3):
        model(batch(2 * step + rank))
        update_averages(trainer)
    return model.state_dict(), average.model.state_dict()


@pytest.mark.slow
def test_every_process_has_the_mean(tmp_path):
    first, second = in_two_processes(after_three_steps, tmp_path)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    alone = [network(), network()]
    for number in range(6):
        alone[number % 2](batch(number))
    for name in ("1.running_mean", "1.running_var"):
        expected = torch.stack([model.state_dict()[name] for model in alone]).mean(0)
        torch.testing.assert_close(first[0][name], expected)
    assert first[0]["1.num_batches_tracked"] == 3


def test_a_process_alone_keeps_its_own():
    model = network()
    model(batch(0))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    average_statistics(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_trainer_averages_before_anything_reads(tmp_path):
    with registered_people(tmp_path / "data") as people:
        overrides = {"MODEL__CENTER_HEAD__NORM": "BN", "SOLVER__EMA__ENABLED": True}
        trainer = MultitaskTrainer(tiny_cfg(people, tmp_path / "out", **overrides))
        hooks = trainer.build_hooks()
    place = [getattr(hook, "_after_step", None) for hook in hooks].index(update_averages)
    kinds = [type(hook) for hook in hooks]
    assert all(place < kinds.index(x) for x in (StopOnSignal, PeriodicCheckpointer))


@pytest.mark.parametrize("fails", [False, True])
def test_data_problems_are_reported_at_the_end(tmp_path, caplog, monkeypatch, fails):
    def fail() -> None:
        raise KeyError("a fault")

    with registered_people(tmp_path / "data") as people:
        cfg = tiny_cfg(people, tmp_path / "out", SOLVER__MAX_ITER=1, TEST__EVAL_PERIOD=0)
        trainer = MultitaskTrainer(cfg)
        DATA_REPORT.clear()
        DATA_REPORT.add("broken image", "a.png", "it is empty")
        caplog.clear()
        if fails:
            monkeypatch.setattr(trainer, "run_step", fail)
        with (
            caplog.at_level(logging.INFO),
            pytest.raises(KeyError) if fails else contextlib.nullcontext(),
        ):
            trainer.train()
    DATA_REPORT.clear()
    assert "1 x broken image" in caplog.text
    assert "a.png" in caplog.text
