"""Weights of tasks: against gradients by hand, in two processes, in every kind of network."""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from d2_multitask.config import load_config
from d2_multitask.engine.balancing import LossBalancer
from d2_multitask.engine.step import build_step
from engine.test_task_gradients import NETWORKS
from engine_support import tiny_cfg
from support import labelled_image, without
from worker_support import in_two_processes

BATCH = [{"image": torch.tensor([3.0, 4.0])}]


class Network(nn.Module):
    """Features are the images times a weight, () = 1; the batch says which tasks it has."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Scaled()
        self.heads = nn.ModuleDict({name: Scaled() for name in "abc"})

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        features = self.backbone(torch.stack([image["image"] for image in batch]))
        tasks = {
            "loss_a_sum": lambda x: x.sum(),
            "loss_a_more": lambda x: 2 * x.sum(),
            "loss_b": lambda x: 40 * x[..., 0].sum(),
            "loss_c": lambda x: (x - x.detach()).norm() + 1,  # the norm's gradient at 0 is 0
        }
        chosen = batch[0].get("tasks", ("loss_a_sum", "loss_a_more", "loss_b"))
        made = {name: tasks[name](self.heads[name[5]](features)) for name in chosen}
        return {**made, "loss_other": features.sum() * 0.5}


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def weighted(balancer: LossBalancer, model: nn.Module, batch=BATCH, iteration: int = 0, **kwargs):
    with balancer.attached(model, iteration, **kwargs) as original:
        return dict(original), {**model(batch)}, dict(original)


# By hand: the gradient of a is 3 for both features, that of b 40 for one.
NORMS = np.array([3 * math.sqrt(2), 40.0])


def test_gradient_norms_by_hand():
    model, balancer = Network(), LossBalancer("gradient_norm", ["a", "b", "c"], period=5)
    before, losses, original = weighted(balancer, model)
    weights = NORMS.mean() / NORMS
    assert balancer.weights.tolist() == pytest.approx([*weights, 1])
    assert balancer.shares.tolist() == pytest.approx([0.5, 0.5, 0])
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {
            "loss_a_sum": 7 * weights[0],
            "loss_a_more": 14 * weights[0],
            "loss_b": 120 * weights[1],
            "loss_other": 3.5,
        }
    )
    assert not before and original["loss_b"] == 120 and not original["loss_b"].requires_grad
    assert not model._forward_hooks and not model.backbone._forward_hooks
    sum(losses.values()).backward()
    by_head = {name: model.heads[name].weight.grad for name in "ab"}
    assert by_head["b"] == pytest.approx(120 * weights[1])
    balancer.unweigh_heads(model)  # as without weights, and not in what is shared
    assert by_head == pytest.approx({"a": 21, "b": 120})
    assert model.backbone.weight.grad == pytest.approx(21 * weights[0] + 120 * weights[1] + 3.5)


def test_measurements_are_averaged_and_only_each_period():
    model, balancer = Network(), LossBalancer("gradient_norm", ["a", "b"], period=2)
    weighted(balancer, model)
    model.heads["b"].weight.data *= 3  # from now on the norm is 120
    weighted(balancer, model, iteration=1)
    assert balancer.weights.tolist() == pytest.approx(NORMS.mean() / NORMS)
    weighted(balancer, model, iteration=2)
    average = np.array([NORMS[0], (0.9 * 40 + 120) / 1.9])  # bias-corrected, decay 0.9
    assert balancer.weights.tolist() == pytest.approx(average.mean() / average)
    assert balancer.shares[1] == pytest.approx(120 / average[1] / (1 + 120 / average[1]))


@pytest.mark.parametrize("method", ["gradient_norm", "uncertainty"])
def test_a_task_that_is_absent_keeps_what_was_measured(method):
    model, balancer = Network(), LossBalancer(method, ["a", "b"], temperature=0.1)
    weighted(balancer, model)
    weights, sums = balancer.weights.clone(), balancer._sums.clone()
    for batch in (
        [{**BATCH[0], "tasks": ("loss_a_sum", "loss_a_more")}],
        [{**BATCH[0], "tasks": ()}],
    ):
        weighted(balancer, model, batch, iteration=1)
        assert torch.equal(balancer._sums[:, 1], sums[:, 1])
        if method == "gradient_norm":  # and a measures the same again
            assert balancer.weights.tolist() == pytest.approx(weights.tolist())
        else:
            assert balancer.weights.tolist() == pytest.approx([1, weights[1].item()])


def test_uncertainty_is_a_softmax():
    model, balancer = Network(), LossBalancer("uncertainty", ["a", "b"], temperature=0.05)
    _, losses, _ = weighted(balancer, model)
    e = np.exp(1 / (np.array([21.0, 120.0]) * 0.05))
    assert balancer.weights.tolist() == pytest.approx(2 * e / e.sum())
    assert losses["loss_b"].item() == pytest.approx(240 * e[1] / e.sum())
    assert balancer.scalars() == {
        "balance/weight-a": pytest.approx(2 * e[0] / e.sum()),
        "balance/weight-b": pytest.approx(2 * e[1] / e.sum()),
    }
    broken = [{"image": torch.tensor([math.nan, 1.0])}]
    weighted(balancer, model, broken)  # the step says that a loss is not finite
    assert balancer.weights.tolist() == pytest.approx(2 * e / e.sum())
    balancer._measure_losses({"a": torch.tensor(1e-40), "b": torch.tensor(1.0)})
    assert balancer.weights.tolist() == [2, 0]
    with pytest.raises(ValueError, match="TEMPERATURE: found nan, expected > 0"):  # YAML's .nan
        LossBalancer("uncertainty", ["a"], temperature=math.nan)


def test_a_vanishing_gradient_does_not_get_all_weight():
    model, balancer = Network(), LossBalancer("gradient_norm", ["a", "b"])
    model.heads["a"].weight.data.fill_(1e-12)
    weighted(balancer, model)
    a, b = balancer.weights.tolist()  # the norm of a counts as 1e-4 of the mean, 20
    assert a / b == pytest.approx(40 / 0.002, rel=1e-5)


def test_overflow_in_float16_is_not_measured():
    model, balancer = Network(), LossBalancer("gradient_norm", ["a", "b"])
    model.half()
    batch = [{"image": torch.tensor([3.0, 4.0]).half()}]
    weighted(balancer, model, batch, scale=lambda: 1024.0)  # 40 * 1024 is in range
    assert balancer.weights.tolist() == pytest.approx(NORMS.mean() / NORMS, rel=1e-3)
    before = balancer.state_dict()
    weighted(balancer, model, batch, iteration=1, scale=lambda: 2048.0)
    assert all(torch.equal(before[k], balancer.state_dict()[k]) for k in ("weights", "_sums"))
    model.heads["a"].weight.data.fill_(torch.inf)  # a scale of 1 is one too
    weighted(balancer, model, batch, iteration=2, scale=lambda: 1.0)
    assert all(torch.equal(before[k], balancer.state_dict()[k]) for k in ("weights", "_sums"))


# --- The step -------------------------------------------------------------------------------------


def step_of(batches, *opts, model: nn.Module | None = None):
    torch.manual_seed(0)
    cfg = load_config("", ["SOLVER.AMP.ENABLED", "False", *map(str, opts)])
    model = model or Network()
    return build_step(cfg, model, batches, torch.optim.SGD(model.parameters(), lr=0.0))


def run(step, iterations: int) -> EventStorage:
    with EventStorage() as storage:
        for iteration in range(iterations):
            storage.iter = step.iter = iteration
            step.run_step()
    return storage


def test_losses_are_logged_without_weights_and_the_weights_beside_them():
    step = step_of([BATCH] * 2, "SOLVER.LOSS_BALANCING", "gradient_norm")
    storage = run(step, 2)
    assert storage.history("loss_b").values()[0][0] == 120
    assert storage.history("task/a").values()[0][0] == 21
    weights = [storage.history(f"balance/weight-{task}").latest() for task in "ab"]
    assert weights == pytest.approx(NORMS.mean() / NORMS)
    assert storage.history("balance/share-a").latest() == pytest.approx(0.5)


@pytest.mark.parametrize("broken_loss", [False, True])
def test_a_broken_gradient_names_task_key_iteration_and_images(broken_loss):
    bad = [{**BATCH[0], "tasks": ("loss_a_sum", "loss_c"), "file_name": "bad.png"}]
    model = Network()
    if broken_loss:
        bad[0]["image"] = torch.tensor([math.nan, 1.0])
    else:
        model.heads["c"].register_forward_hook(
            lambda _, __, x: x.detach() + (x - x.detach()).sqrt()
        )
    step = step_of([BATCH, bad], "SOLVER.LOSS_BALANCING", "gradient_norm",
                   "SOLVER.LOSS_BALANCING_PERIOD", 1, model=model)  # fmt: skip
    run(step, 1)
    before = [p.detach().clone() for p in model.parameters()]
    expected = (
        r"Loss became infinite or NaN at iteration 1: loss_a_sum = nan"
        if broken_loss
        else r"SOLVER\.LOSS_BALANCING: at iteration 1 the gradient of the task c by"
    )
    step.iter = 1
    with EventStorage(), pytest.raises(FloatingPointError, match=expected) as error:
        step.run_step()
    assert "bad.png" in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def frozen() -> nn.Module:
    model = Network()
    model.backbone.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("opts", "model", "message"),
    [
        (["", "gradnorm"], Network, r"LOSS_BALANCING: found 'gradnorm', expected one of \['none'"),
        (["_PERIOD", 0], Network, r"LOSS_BALANCING_PERIOD: found 0, expected > 0"),
        (["_TEMPERATURE", -1.0], Network, r"LOSS_BALANCING_TEMPERATURE: found -1.0, expected > 0"),
        ([], partial(nn.Linear, 1, 1), r"a network that names no tasks, expected 'none'"),
        ([], frozen, r"Network without a backbone that is learned, expected 'none' or 'uncert"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(opts, model, message):
    opts = [f"SOLVER.LOSS_BALANCING{opts[0]}", opts[1]] if opts else []
    with pytest.raises(ValueError, match=message):
        step_of([], "SOLVER.LOSS_BALANCING", "gradient_norm", *opts, model=model())


def test_one_task_has_nothing_to_balance(caplog):
    model = Network()
    del model.heads["b"], model.heads["c"]
    step_of([], "SOLVER.LOSS_BALANCING", "gradient_norm", model=model)
    assert "found 'gradient_norm' and one task, a: there is nothing to balance" in caplog.text


def test_another_method_begins_anew(caplog):
    caplog.set_level("INFO", logger="d2_multitask")
    first = step_of([BATCH], "SOLVER.LOSS_BALANCING", "gradient_norm")
    run(first, 1)
    for method in ("gradient_norm", "uncertainty", "none"):
        other = step_of([], "SOLVER.LOSS_BALANCING", method)
        other.load_state_dict(first.state_dict())
        if method == "gradient_norm":
            assert torch.equal(other.balancer.weights, first.balancer.weights)
        elif method == "uncertainty":
            assert other.balancer.weights.tolist() == [1, 1, 1]
            assert "are of gradient_norm" in caplog.text


# --- Surgery --------------------------------------------------------------------------------------


def test_surgery_gets_the_gram_matrix_of_the_tasks_that_are_there(monkeypatch):
    seen = []

    def weighting(gram: Tensor) -> Tensor:
        seen.append(gram.tolist())
        return torch.tensor([0.5, 0.25], dtype=gram.dtype)

    stand_in = SimpleNamespace(UPGradWeighting=lambda: weighting)
    monkeypatch.setitem(sys.modules, "torchjd", SimpleNamespace(aggregation=stand_in))
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", stand_in)
    balancer = LossBalancer("upgrad", ["c", "a", "b"])
    _, losses, _ = weighted(balancer, Network())
    assert seen == [[[pytest.approx(18), pytest.approx(120)], [pytest.approx(120), 1600]]]
    # Times one number, so that the sum of the norms stays.
    scale = NORMS.sum() / (NORMS * [0.5, 0.25]).sum()
    assert balancer.weights.tolist() == pytest.approx([1, 0.5 * scale, 0.25 * scale])
    assert losses["loss_b"].item() == pytest.approx(120 * 0.25 * scale)


def test_without_torchjd_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(ValueError, match=r"python -m pip install 'torchjd\[quadprog-projector\]"):
        step_of([], "SOLVER.LOSS_BALANCING", "upgrad")


def test_upgrad_contradicts_no_task():
    pytest.importorskip("torchjd")
    pytest.importorskip("quadprog")
    balancer = LossBalancer("upgrad", ["a", "b"])
    rows = torch.tensor([[1.0, 0.0, 0.0], [-2.0, 1.0, 0.0]])
    balancer._take(rows.norm(dim=1), rows @ rows.T)
    weights = balancer.weights
    assert (rows @ (weights @ rows) > -1e-3).all()  # with equal weights the first is contradicted
    assert (rows @ rows.sum(0))[0] < 0
    assert (weights * rows.norm(dim=1)).sum() == pytest.approx(rows.norm(dim=1).sum().item())


# --- Whole networks and several processes ---------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_tasks_of_every_network_get_equal_shares(name):
    build, image, tasks, _ = NETWORKS[name]
    model, batch = build(), [image, without(image, "sem_seg", "instances")]
    gradients = []
    for method in ("none", "gradient_norm"):
        torch.manual_seed(0)
        step = step_of([batch], "SOLVER.LOSS_BALANCING", method, model=model)
        run(step, 1)
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    assert step.balancer.shares.tolist() == pytest.approx([1 / len(tasks)] * len(tasks))
    assert step.balancer.weights.min() > 0 and step.balancer.weights.max() > 1
    own = ["heads", "roi_heads", "proposal", "backbone.decoder.decoder_pred"]
    if not getattr(step.model.backbone, "reads_decoder", True):
        own.append("backbone.decoder")
    heads = [n for n in gradients[0] if n.startswith(tuple(own))]
    assert heads
    for name in heads:
        expected, found = gradients[0][name], gradients[1][name]
        assert torch.allclose(
            found, expected, rtol=1e-3, atol=1e-6 + 1e-3 * float(expected.abs().max())
        )


def mcn() -> nn.Module:
    torch.manual_seed(0)
    return build_model(tiny_cfg("", Path()))


def people() -> list[dict]:
    """Rank 1's images have no semantic map; nobody has keypoints."""
    images = [labelled_image(seed=seed, joints=False) for seed in range(4)]
    return [*images[:2], *(without(image, "sem_seg") for image in images[2:])]


def learned(model: nn.Module, batch: list[dict], method: str) -> dict[str, Tensor]:
    """Weights after two steps, and the gradients of the second."""
    step = step_of([batch] * 2, "SOLVER.LOSS_BALANCING", method,
                   "SOLVER.LOSS_BALANCING_TEMPERATURE", 5.0, model=model)  # fmt: skip
    run(step, 2)
    named = getattr(model, "module", model).named_parameters()
    return {"weights": step.balancer.weights, **{n: p.grad for n, p in named}}


def of_worker(rank: int) -> dict[str, dict[str, Tensor]]:
    batch = people()[2 * rank : 2 * rank + 2]
    return {m: learned(DistributedDataParallel(mcn()), batch, m) for m in METHODS}


METHODS = ("gradient_norm", "uncertainty")


def test_two_processes_are_one(tmp_path):
    first, second = in_two_processes(of_worker, tmp_path)
    for method in METHODS:
        expected = learned(mcn(), people(), method)
        # Of "pose" nothing is labelled: all gradients of it are 0.
        assert expected["weights"][3] == 1 and len(expected["weights"].unique()) == 4
        assert torch.equal(first[method]["weights"], second[method]["weights"])
        for name, value in expected.items():
            size = max(float(value.abs().max()), 1e-3)
            assert float((first[method][name] - value).abs().max()) / size < 1e-4, name
