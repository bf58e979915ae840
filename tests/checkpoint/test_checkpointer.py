"""The checkpointer: files that cannot be loaded, and training checkpoints."""

from __future__ import annotations

import os
import pickle
import signal
import time

import pytest
import torch
from detectron2.engine.train_loop import SimpleTrainer
from fvcore.common.checkpoint import PeriodicCheckpointer

from checkpoint.networks import copied, load, network
from d2_multitask.checkpoint import MultitaskCheckpointer, read_checkpoint


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


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda tag, file: tag.write_text(""), id="tag-empty"),
        pytest.param(lambda tag, file: tag.unlink(), id="tag-missing"),
        pytest.param(lambda tag, file: tag.write_text("model_0000099.pth"), id="tag-lies"),
        pytest.param(lambda tag, file: tag.write_bytes(b"\x00\xff"), id="tag-of-bytes"),
        pytest.param(lambda tag, file: file.write_bytes(b""), id="file-empty"),
        pytest.param(lambda tag, file: file.write_bytes(b"\x00" * 5000), id="file-of-zeros"),
        pytest.param(lambda tag, file: file.write_bytes(file.read_bytes()[:5000]), id="file-cut"),
        pytest.param(lambda tag, file: file.unlink(), id="file-gone"),
    ],
)
def test_resume_takes_the_newest_good_checkpoint(saved, damage, caplog):
    folder, _ = saved
    checkpointer, *_ = training(network(norm="BN"), folder)
    checkpointer.save("model_0000042", iteration=42)
    torch.save({"w": torch.zeros(1)}, folder / "pretrained.pth")  # newest, but no training state
    good = folder / "model_0000041.pth"
    os.utime(good, (10**9, 10**9))
    damage(folder / "last_checkpoint", folder / "model_0000042.pth")
    found = checkpointer.resume_or_load("", resume=True)["iteration"]
    whole = checkpointer.report.file.endswith("42.pth")
    assert found == (42 if whole else 41)
    assert "newest good checkpoint" in caplog.text


@pytest.mark.parametrize("when", ["checkpoint", "tag", 0.0, 0.01, 0.02, 0.03])
def test_a_killed_save_leaves_whole_files(saved, when):
    folder, _ = saved
    checkpointer, *_ = training(network(norm="BN"), folder, ema=Average(network(norm="BN")))
    ready, write = os.pipe()
    child = os.fork()
    if child == 0:
        save_until_killed(checkpointer, when, write)
    os.read(ready, 1)
    time.sleep(when if isinstance(when, float) else 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for file in folder.glob("*.pth"):
        read_checkpoint(str(file))
    assert checkpointer.resume_or_load("", resume=True)["iteration"] >= 41
    checkpointer.save("model_final", iteration=99)
    assert not list(folder.glob("*.part"))


def save_until_killed(checkpointer, when, write):
    """Save again and again; tell when the kill is due, and stop in the middle of that write."""

    def stop():
        os.write(write, b"x")
        time.sleep(60)

    def half(content, file):
        file.write(b"PK\x03\x04 half of it")
        file.flush()
        stop()

    if when == "checkpoint":
        torch.save = half
    elif when == "tag":
        checkpointer.tag_last_checkpoint = lambda name: stop()
    else:
        os.write(write, b"x")
    for iteration in range(42, 10_000):
        checkpointer.save(f"model_{iteration % 2}", iteration=iteration)
    os._exit(0)


@pytest.mark.parametrize("where", ["weight", "buffer", "average"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_broken_is_saved(saved, where, value):
    folder, model = saved
    before = sorted(folder.iterdir())
    average = Average(model)
    name = "heads.box.weight" if where != "buffer" else "backbone.bottom_up.stem.conv1.norm.bias"
    state = average.weights if where == "average" else model.state_dict()
    state[name].view(-1)[0] = value
    checkpointer, *_ = training(model, folder, ema=average)
    with pytest.raises(FloatingPointError, match=rf"model_final.pth is not saved: 1 of .*{name}"):
        checkpointer.save("model_final")
    assert sorted(folder.iterdir()) == before
    assert (folder / "last_checkpoint").read_text() == "model_0000041.pth"


def test_a_mask_of_minus_infinity_is_saved(tmp_path):
    """A constant of attention, as users' backbones may register."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model[0].register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
    average = Average(model)
    checkpointer = MultitaskCheckpointer(model, str(tmp_path), ema=average)
    checkpointer.save("model_final")
    assert "mask" in str(list(read_checkpoint(str(tmp_path / "model_final.pth"))["model"]))
    torch.nn.init.constant_(model[0].weight, float("-inf"))  # nothing constant
    with pytest.raises(FloatingPointError, match=r"4 of the 4 numbers of model\.0\.weight"):
        checkpointer.save("model_final")


@pytest.mark.parametrize("change", ["optimizer", "frozen", "others-frozen"])
def test_resume_with_another_optimizer(saved, change):
    folder, _ = saved
    model = network(norm="BN")
    parameters = list(model.parameters())
    if change == "optimizer":
        optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    elif change == "frozen":
        optimizer = torch.optim.AdamW(parameters[4:], lr=0.01)
    else:  # as many, of other shapes
        optimizer = torch.optim.AdamW(parameters[::-1], lr=0.01)
    before = copied(model.state_dict())
    checkpointer = MultitaskCheckpointer(model, str(folder), trainer=Loop(model, [0], optimizer))
    with pytest.raises(ValueError, match=r"41\.pth.*found .*, expected .*without --resume"):
        checkpointer.resume_or_load("", resume=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_training_state_that_does_not_fit_is_a_sentence(saved):
    folder, _ = saved
    model = network(norm="BN")
    other = torch.nn.Linear(1, 1)  # its state has other names
    checkpointer = MultitaskCheckpointer(model, str(folder), ema=other)
    with pytest.raises(ValueError, match=r"41\.pth: its training state 'ema'.*without --resume"):
        checkpointer.resume_or_load("", resume=True)


def test_a_full_disk_is_an_os_error_with_the_files_name(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"too large.*model_0000001\.pth"):
            MultitaskCheckpointer(torch.nn.Linear(100, 100), str(tmp_path)).save("model_0000001")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
