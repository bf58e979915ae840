"""Training in float16 on a simulated GPU: what a skipped step leaves as it is."""

from __future__ import annotations

import itertools
import json
import logging
import math

import pytest
import torch

from d2_multitask.engine import step as step_module
from d2_multitask.engine.step import CudaAmpStep, FloatStep
from d2_multitask.engine.trainer import MultitaskTrainer
from device_support import SimulatedDevice
from engine_support import registered_people, tiny_cfg

SCALE = 4.0


@pytest.fixture(autouse=True)
def detectron2_logger(caplog):
    """DefaultTrainer sets Detectron2's logger up for good unless it is set up."""
    caplog.set_level(logging.INFO, logger="detectron2")
    caplog.set_level(logging.INFO, logger="d2_multitask")


@pytest.fixture
def people(tmp_path):
    with registered_people(tmp_path / "people") as name:
        yield name


@pytest.fixture
def gpu():
    with SimulatedDevice().active() as device:
        yield device


def amp_trainer(people, folder, infinite_at=(), **overrides) -> MultitaskTrainer:
    """A trainer whose gradients of one task, "det", are infinite at some iterations."""
    cfg = tiny_cfg(
        people, folder, SOLVER__AMP__ENABLED=True, SOLVER__EMA__ENABLED=True, **overrides
    )
    cfg.MODEL.DEVICE = "cuda"
    cfg.SOLVER.MAX_ITER = 3
    cfg.SOLVER.LOG_PERIOD = 1
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    torch.manual_seed(0)
    trainer = MultitaskTrainer(cfg)
    # PyTorch's first scale, 65536, would let the gradients of a fresh heatmap overflow.
    trainer._trainer.grad_scaler = torch.amp.GradScaler("cuda", init_scale=SCALE)

    def spoil(gradient):
        return gradient * math.inf if trainer.iter in infinite_at else gradient

    trainer.model.heads["det"].wh[-1].weight.register_hook(spoil)
    return trainer


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.mark.parametrize("clip", [False, True])
def test_an_infinite_gradient_of_one_task_skips_the_step_of_all(people, tmp_path, gpu, clip):
    weights, averages = [], []

    def keep(trainer):
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
        averages.append([p.detach().clone() for p in trainer.weight_average.model.parameters()])

    trainer = amp_trainer(
        people, tmp_path, (1,), SOLVER__CLIP_GRADIENTS__ENABLED=clip, DATASETS__TEST=()
    )
    step, last = trainer._trainer, trainer._hooks[-1]
    assert type(step) is CudaAmpStep
    last.after_step = lambda: keep(trainer)
    trainer.train()
    same = [
        [all(map(torch.equal, a, b)) for a, b in itertools.pairwise(kept)]
        for kept in (weights, averages)
    ]
    # The steps 0 and 2 change weights and averages, step 1 neither.
    assert same == [[True, False], [True, False]]
    assert trainer.weight_average.num_updates == 2
    assert step.grad_scaler.get_scale() == SCALE / 2
    assert step.optimizer.state_dict()["state"][0]["step"] == 2


def test_schedule_and_log_of_a_skipped_step_are_those_of_others(people, tmp_path, gpu):
    for name, infinite_at in (("skipped", (1,)), ("whole", ())):
        amp_trainer(people, tmp_path / name, infinite_at, DATASETS__TEST=()).train()
    skipped, whole = lines_of(tmp_path / "skipped"), lines_of(tmp_path / "whole")
    assert [x["iteration"] for x in skipped] == [x["iteration"] for x in whole] == [0, 1, 2]
    assert [x["lr"] for x in skipped] == [x["lr"] for x in whole]
    assert [x["amp/skipped_steps"] for x in skipped] == [0, 1, 1]
    assert [x["amp/skipped_steps"] for x in whole] == [0, 0, 0]
    assert skipped[1]["loss_det_wh"] == whole[1]["loss_det_wh"]  # from before the step
    assert skipped[2]["loss_seg"] != whole[2]["loss_seg"]


def test_the_scale_goes_on_after_a_resume(people, tmp_path, gpu):
    trainer = amp_trainer(people, tmp_path, infinite_at=(1,), DATASETS__TEST=())
    trainer.train()
    resumed = amp_trainer(people, tmp_path, DATASETS__TEST=())
    resumed.resume_or_load(resume=True)
    assert resumed._trainer.grad_scaler.get_scale() == SCALE / 2
    assert resumed.weight_average.num_updates == 2


def test_gradients_that_stay_infinite_stop_the_training(people, tmp_path, gpu, monkeypatch):
    trainer = amp_trainer(
        people, tmp_path, infinite_at=range(100), DATASETS__TEST=(), SOLVER__CHECKPOINT_PERIOD=1000
    )
    trainer.max_iter = 100
    monkeypatch.setattr(step_module, "_MOST_SKIPPED", 4)
    with pytest.raises(FloatingPointError, match=r"in 4 steps .*heads\.det\.wh\."):
        trainer.train()
    assert trainer.iter == 3


def test_losses_are_finite_in_float32_and_evaluation_runs(people, tmp_path, gpu):
    trainer = amp_trainer(people, tmp_path)
    trainer.train()
    assert torch.float16 in gpu.dtypes
    line = lines_of(tmp_path)[-1]
    assert {"bbox/AP", "keypoints/AP", "sem_seg/mIoU"} <= set(line)
    assert all(math.isfinite(x) for key, x in line.items() if "loss" in key)


def test_mixed_precision_is_not_for_other_devices(people, tmp_path, caplog):
    with SimulatedDevice("mps").active() as device:
        cfg = tiny_cfg(people, tmp_path, SOLVER__AMP__ENABLED=True, DATASETS__TEST=())
        cfg.MODEL.DEVICE = "mps"
        trainer = MultitaskTrainer(cfg)
        assert type(trainer._trainer) is FloatStep
        trainer.train()
    assert "not for the device 'mps'" in caplog.text
    assert torch.float64 not in device.dtypes
