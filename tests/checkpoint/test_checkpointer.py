"""The checkpointer: files that cannot be loaded, and training checkpoints."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from checkpoint.networks import copied, load, network
from detectron2.engine.train_loop import SimpleTrainer
from fvcore.common.checkpoint import PeriodicCheckpointer

from d2_multitask.checkpoint import MultitaskCheckpointer


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("no/such/file.pth", "no weight file no/such/file.pth", id="local"),
        pytest.param("detectron2://no/such/model.pkl", "detectron2://no/such", id="zoo"),
        pytest.param("catalog://no/such/model", "catalog://no/such/model", id="catalog"),
    ],
)
def test_missing_file(path, message, monkeypatch, tmp_path):
    def no_network(*_args, **_keys):
        raise OSError("no route to host")

    monkeypatch.setattr("iopath.common.file_io.download", no_network)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    checkpointer = MultitaskCheckpointer(network())
    for _ in range(2):  # the parent's own bookkeeping must survive the error
        with pytest.raises(FileNotFoundError, match=message):
            checkpointer.load(path)


def test_malicious_file_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "created"),)

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Payload(), "__author__": "x"}))
    checkpointer = MultitaskCheckpointer(network())
    for _ in range(2):
        with pytest.raises(ValueError, match="evil.pkl is refused"):
            checkpointer.load(str(tmp_path / "evil.pkl"))
    assert not (tmp_path / "created").exists()


class Loop(SimpleTrainer):
    """What DefaultTrainer saves of itself: the loop, the optimizer, hooks with a state."""


def training(model, folder, **more):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    loop = Loop(model, [0], optimizer)
    checkpointer = MultitaskCheckpointer(
        model, str(folder), trainer=loop, scheduler=scheduler, **more
    )
    return checkpointer, loop, optimizer


def one_step(model, optimizer):
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()


class Average:
    def __init__(self, model):
        self.weights = copied(model.state_dict())

    def state_dict(self):
        return {"model": self.weights, "num_updates": 1}

    def load_state_dict(self, state):
        self.weights = state["model"]


@pytest.fixture
def saved(tmp_path):
    """A checkpoint by Detectron2's PeriodicCheckpointer, and the model it was made of."""
    model = network(norm="BN")
    checkpointer, loop, optimizer = training(model, tmp_path, ema=Average(model))
    one_step(model, optimizer)
    loop.iter = 41
    PeriodicCheckpointer(checkpointer, period=1, max_iter=100).step(41)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000041.pth"
    return tmp_path, model


def test_resume(saved):
    folder, trained = saved
    model = network(norm="BN")
    average = Average(model)
    checkpointer, loop, optimizer = training(model, folder, ema=average)
    rest = checkpointer.resume_or_load("", resume=True)
    assert rest["iteration"] == 41
    assert loop.iter == 41
    assert len(optimizer.state_dict()["state"]) == len(list(model.parameters()))
    report = checkpointer.report
    assert report.fresh == report.unused == report.mismatched == []
    assert not report.ema  # the weights as trained; the average goes to its own object
    weight = "backbone.bottom_up.res2.0.conv1.weight"
    assert torch.equal(model.state_dict()[weight], trained.state_dict()[weight])
    assert not torch.equal(average.weights[weight], trained.state_dict()[weight])


def test_checkpoint_is_read_as_data_only(saved):
    folder, _ = saved
    content = torch.load(folder / "model_0000041.pth", weights_only=True)
    assert set(content) == {"model", "trainer", "scheduler", "ema", "iteration"}


def test_resume_without_a_checkpoint_loads_the_weights(tmp_path, saved):
    folder, trained = saved
    path = str(folder / "model_0000041.pth")
    model = network(norm="BN")
    checkpointer, loop, _ = training(model, tmp_path / "elsewhere", use_ema=False)
    checkpointer.resume_or_load(path, resume=True)
    weight = "heads.box.weight"
    assert torch.equal(model.state_dict()[weight], trained.state_dict()[weight])
    assert not hasattr(loop, "iter") or loop.iter == 0


@pytest.mark.parametrize("use_ema", [True, False])
def test_initialising_takes_the_average_if_wanted(saved, use_ema):
    folder, trained = saved
    model = network(norm="BN")
    report = load(model, str(folder / "model_0000041.pth"), use_ema=use_ema)
    assert report.ema == use_ema
    weight = "heads.box.weight"
    assert torch.equal(model.state_dict()[weight], trained.state_dict()[weight]) != use_ema


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda content: content["model"].pop("heads.box.bias"),
            "missing in the file: heads.box.bias",
            id="missing",
        ),
        pytest.param(
            lambda content: content["model"].update({"heads.box.bias": torch.zeros(9)}),
            r"of another shape: heads.box.bias: \(9,\) in the file, \(2,\) in the model",
            id="shape",
        ),
        pytest.param(
            lambda content: content["model"].update({"heads.pose.bias": torch.zeros(9)}),
            "unknown to the model: heads.pose.bias",
            id="unknown",
        ),
        pytest.param(
            lambda content: content.pop("trainer"),
            "training state missing in the file: trainer",
            id="no-training-state",
        ),
    ],
)
def test_resume_is_strict(saved, change, message):
    folder, _ = saved
    path = folder / "model_0000041.pth"
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    model = network(norm="BN")
    before = copied(model.state_dict())
    checkpointer, *_ = training(model, folder, ema=Average(model))
    with pytest.raises(ValueError, match=message):
        checkpointer.resume_or_load("", resume=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes()[:5000]),
            ValueError,
            "model_0000041.pth cannot be read.*the one before it",
            id="cut-off",
        ),
        pytest.param(
            lambda path: path.unlink(),
            FileNotFoundError,
            "model_0000041.pth.*last_checkpoint",
            id="deleted",
        ),
    ],
)
def test_resume_from_a_broken_checkpoint(saved, damage, error, message):
    folder, _ = saved
    damage(folder / "model_0000041.pth")
    checkpointer, *_ = training(network(norm="BN"), folder)
    with pytest.raises(error, match=message):
        checkpointer.resume_or_load("", resume=True)
