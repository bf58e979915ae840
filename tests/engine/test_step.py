from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from d2_multitask.config import get_multitask_cfg
from d2_multitask.engine import step as step_module
from d2_multitask.engine.step import (
    BatchMemory,
    CpuAmpStep,
    FloatStep,
    build_step,
    describe_losses,
    gradient_norm,
    has_native_bfloat16,
)


class FakeModel(nn.Module):
    """Losses that the batch says; records the type that its layer computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.heads = nn.ModuleDict({"det": nn.Identity(), "pose": nn.Identity()})
        self.dtypes: list[torch.dtype] = []

    def forward(self, batch):
        out = self.layer(torch.ones(1, 2))
        self.dtypes.append(out.dtype)
        graph = out.float().sum()
        return {
            "loss_det_wh": graph * 0 + batch[0]["det"],
            "loss_pose_offset": graph**2 + batch[0]["pose"],
            "loss_pose_heatmap": graph * 0 + 0.5,
        }


def batch(number: int, det: float = 1.0, pose: float = 2.0):
    names = [f"image_{number}_{i}.png" for i in range(2)]
    return [{"file_name": name, "det": det, "pose": pose} for name in names]


def make_step(batches, amp: bool = False):
    cfg = get_multitask_cfg()
    cfg.SOLVER.AMP.ENABLED = amp
    torch.manual_seed(0)
    model = FakeModel()
    return build_step(cfg, model, batches, torch.optim.SGD(model.parameters(), lr=0.1))


def run(step, iterations: int):
    with EventStorage() as storage:
        for iteration in range(iterations):
            storage.iter = step.iter = iteration
            step.run_step()
    return storage


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_broken_loss_names_iteration_loss_value_and_images(value):
    step = make_step([batch(0), batch(1, pose=value), batch(2)])
    with pytest.raises(FloatingPointError) as error:
        run(step, 3)
    message = str(error.value)
    assert "iteration 1:" in message
    assert f"loss_pose_offset = {value}" in message
    assert "image_1_0.png" in message
    assert "image_1_1.png" in message
    assert "image_0_0.png" not in message
    assert "image_2_0.png" not in message


def test_weights_are_not_changed_by_a_broken_loss():
    step = make_step([batch(0), batch(1, det=math.nan)])
    run(step, 1)
    before = step.model.layer.weight.detach().clone()
    with pytest.raises(FloatingPointError):
        run(step, 1)
    assert torch.equal(step.model.layer.weight, before)


@pytest.mark.parametrize("kind", [FloatStep, CpuAmpStep])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_gradient_of_a_finite_loss_changes_no_weight(value, kind):
    model = FakeModel()
    model.layer.bias.register_hook(lambda gradient: gradient * value)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = kind(model, BatchMemory([batch(0)]), optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match=r"iteration 0, .* layer\.bias") as error:
        run(step, 1)
    assert "image_0_1.png" in str(error.value) and "layer.weight" not in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_finite_gradients_whose_norm_overflows_are_used():
    step = make_step([batch(0)])
    step.model.layer.weight.register_hook(lambda gradient: gradient * 0 + 1e30)
    run(step, 1)
    assert torch.isfinite(step.model.layer.weight).all()


@pytest.mark.parametrize("amp", [False, True])
def test_weights_change_and_losses_are_logged(amp):
    step = make_step([batch(i, det=float(i)) for i in range(3)], amp)
    before = step.model.layer.weight.detach().clone()
    storage = run(step, 3)
    assert not torch.equal(step.model.layer.weight, before)
    assert storage.history("loss_det_wh").values() == [(0, 0), (1, 1), (2, 2)]
    pose = storage.history("loss_pose_offset").latest()
    assert storage.history("task/pose").latest() == pytest.approx(pose + 0.5)
    assert storage.history("task/det").latest() == 2
    assert storage.history("total_loss").latest() == pytest.approx(2 + pose + 0.5)


class Batches(list):
    """Batches of images of two datasets, as `ReportingLoader` has them."""

    images = SimpleNamespace(set_names=["a", "b"])


@pytest.mark.parametrize("processes", [1, 2])
def test_shares_of_datasets_are_logged(processes, monkeypatch):
    first, second = batch(0), batch(1)
    for image, name in zip([*first, *second], "abbb", strict=True):
        image["dataset_name"] = name
    if processes == 2:  # the other one has four images of "a"
        other = torch.tensor([4.0, 0.0])
        monkeypatch.setattr(step_module, "sum_over_workers", lambda counts: counts + other)
    storage = run(make_step(Batches([first, second])), 2)
    shares = [(v, 1 - v) for v in ((0.5, 0.0) if processes == 1 else (5 / 6, 4 / 6))]
    found = [[v for v, _ in storage.history(f"data/{name}").values()] for name in "ab"]
    assert found == [pytest.approx(column) for column in zip(*shares, strict=True)]
    assert storage.latest_with_smoothing_hint(20)["data/a"][0] == pytest.approx(shares[1][0])


@pytest.mark.parametrize(
    ("amp", "native", "kind", "dtype"),
    [
        (False, True, FloatStep, torch.float32),
        (True, True, CpuAmpStep, torch.bfloat16),
        (True, False, FloatStep, torch.float32),  # emulated bfloat16 would cost time
    ],
)
def test_mixed_precision_on_the_cpu_is_bfloat16(amp, native, kind, dtype, monkeypatch):
    monkeypatch.setattr("d2_multitask.engine.step.has_native_bfloat16", lambda: native)
    step = make_step([batch(0)], amp)
    assert type(step) is kind
    run(step, 1)
    assert step.model.dtypes == [dtype]
    assert step.model.layer.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("flags : fpu avx512f avx512_bf16 avx512_vbmi", True),
        ("flags : amx_bf16 amx_tile", True),
        ("Features : fp asimd bf16", True),
        ("flags : fpu avx2 avx512f", False),
    ],
)
def test_processor_with_bfloat16(tmp_path, text, native):
    (tmp_path / "cpuinfo").write_text(text)
    assert has_native_bfloat16(tmp_path / "cpuinfo") is native
    assert has_native_bfloat16(tmp_path / "absent") is False


def test_batch_memory_keeps_the_last_batch_only():
    memory = BatchMemory([batch(0), batch(1)])
    assert memory.last == []
    for expected, seen in zip([batch(0), batch(1)], memory, strict=True):
        assert seen == memory.last == expected


def test_message_for_images_without_a_file():
    text = describe_losses({"loss_a": math.nan, "loss_b": 1.0}, 7, [{"image_id": 5}, {}])
    assert "iteration 7: loss_a = nan." in text
    assert "loss_b = 1" in text
    assert "\n  5\n  ?" in text


def test_gradient_norm_in_every_release_of_pytorch(monkeypatch):
    monkeypatch.delattr(torch.nn.utils, "get_total_norm", raising=False)  # not before 2.6
    model = nn.Linear(2, 1)
    assert gradient_norm(model) == 0
    model.weight.grad, model.bias.grad = torch.tensor([[2.0, 3.0]]), torch.tensor([6.0])
    assert gradient_norm(model) == 7
    model.bias.grad[0] = math.nan
    assert not gradient_norm(model).isfinite()
