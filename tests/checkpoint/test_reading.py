"""Weight files: all formats are read, and none can run code or fail without a clear word."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import random
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from d2_multitask.checkpoint import read_checkpoint, reading

WEIGHTS = {"conv.weight": torch.arange(6.0).view(2, 3), "bn.num_batches_tracked": torch.tensor(7)}
ARRAYS = {name: value.numpy() for name, value in WEIGHTS.items()}


def write_pickle(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return str(path)


def write_torch(path, content):
    torch.save(content, path)
    return str(path)


def assert_weights(found, expected=WEIGHTS):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert isinstance(found[name], torch.Tensor)
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(WEIGHTS, id="plain"),
        pytest.param(collections.OrderedDict(WEIGHTS), id="ordered"),
        pytest.param({"model": WEIGHTS, "iteration": 3}, id="detectron2"),
        pytest.param({"state_dict": WEIGHTS, "epoch": 3}, id="state_dict"),
        pytest.param({"model_state": WEIGHTS}, id="pycls"),
        pytest.param({"model_state_dict": WEIGHTS}, id="model_state_dict"),
        pytest.param({f"module.{k}": v for k, v in WEIGHTS.items()}, id="distributed"),
        pytest.param({"model": {f"_orig_mod.{k}": v for k, v in WEIGHTS.items()}}, id="compiled"),
        pytest.param({"state_dict": WEIGHTS, "best": np.float64(0.5)}, id="numpy-number"),
    ],
)
def test_torch_files(tmp_path, content):
    assert_weights(read_checkpoint(write_torch(tmp_path / "w.pth", content))["model"])


def test_training_state_is_handed_on(tmp_path):
    content = {"model": WEIGHTS, "iteration": 41, "trainer": {"optimizer": {"lr": 0.1}}}
    checkpoint = read_checkpoint(write_torch(tmp_path / "w.pth", content))
    assert checkpoint["iteration"] == 41
    assert checkpoint["trainer"] == {"optimizer": {"lr": 0.1}}


def test_legacy_torch_file(tmp_path):
    torch.save(WEIGHTS, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert_weights(read_checkpoint(str(tmp_path / "w.pth"))["model"])


def test_safetensors(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    found = read_checkpoint(str(tmp_path / "w.safetensors"))["model"]
    assert_weights({name: found[name] for name in WEIGHTS})


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_model_zoo_pickle(tmp_path, protocol):
    content = {"model": ARRAYS, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
    checkpoint = read_checkpoint(write_pickle(tmp_path / "w.pkl", content, protocol))
    assert_weights(checkpoint["model"])
    assert checkpoint["matching_heuristics"] is True
    assert checkpoint["__author__"] == "Detectron2 Model Zoo"


def test_plain_pickle_with_nested_names_is_not_taken_for_caffe2(tmp_path):
    checkpoint = read_checkpoint(write_pickle(tmp_path / "w.pkl", ARRAYS))
    assert_weights(checkpoint["model"])
    assert "matching_heuristics" not in checkpoint


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"blobs": w, "cfg": "text"}])
def test_caffe2_pickle(tmp_path, wrap):
    blobs = {"conv1_w": np.ones((2, 3), np.float32), "conv1_w_momentum": np.ones(1, np.float32)}
    checkpoint = read_checkpoint(write_pickle(tmp_path / "w.pkl", wrap(blobs)))
    assert_weights(checkpoint["model"], {"conv1_w": torch.ones(2, 3)})
    assert checkpoint["__author__"] == "Caffe2"
    assert checkpoint["matching_heuristics"] is True


# A pickle as Python 2 writes it: text and bytes are the same type, and arrays' bytes come as str.
PYTHON_2_PICKLE = (
    b"(dp0\nS'conv1_w'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\n"
    b"tp4\nS'b'\np5\ntp6\nRp7\n(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\nI0\nI1\ntp11\nRp12\n"
    b"(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0'\np15\n"
    b"tp16\nbs."
)


def test_python_2_pickle(tmp_path):
    (tmp_path / "w.pkl").write_bytes(PYTHON_2_PICKLE)
    checkpoint = read_checkpoint(str(tmp_path / "w.pkl"))
    assert_weights(checkpoint["model"], {"conv1_w": torch.tensor([1.0, -2.0])})


def test_what_is_no_tensor_is_named(tmp_path):
    content = {"model": {**ARRAYS, "names": np.array(["a"]), "note": "text"}, "__author__": "me"}
    checkpoint = read_checkpoint(write_pickle(tmp_path / "w.pkl", content))
    assert_weights(checkpoint["model"])
    assert checkpoint["skipped"] == ["names", "note"]


AVERAGE = {"conv.weight": torch.full((2, 3), 9.0)}


@pytest.mark.parametrize(
    "ema",
    [
        pytest.param({"ema": {"model": AVERAGE, "num_updates": 5}}, id="ours"),
        pytest.param(
            {"ema": {"model": AVERAGE, "num_updates": torch.tensor(5)}}, id="tensor-count"
        ),
        pytest.param({"state_dict_ema": AVERAGE}, id="timm"),
        pytest.param({"ema_state": {f"module.{k}": v for k, v in AVERAGE.items()}}, id="wrapped"),
    ],
)
def test_moving_average(tmp_path, ema):
    path = write_torch(tmp_path / "w.pth", {"model": WEIGHTS, **ema})
    raw = read_checkpoint(path)
    assert_weights(raw["model"])
    assert not raw["ema_used"]
    averaged = read_checkpoint(path, prefer_ema=True)
    # what the average leaves out (often buffers) comes from the raw weights
    assert_weights(averaged["model"], {**WEIGHTS, **AVERAGE})
    assert averaged["ema_used"]
    alone = read_checkpoint(write_torch(tmp_path / "alone.pth", ema))
    assert_weights(alone["model"], AVERAGE)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [write_pickle, write_torch], ids=["pickle", "torch"])
@pytest.mark.parametrize("suffix", ["pkl", "pth", "pyth"])
@pytest.mark.parametrize("place", ["beside", "inside", "instead"])
def test_malicious_file_is_refused_and_does_nothing(tmp_path, write, suffix, place):
    target = tmp_path / "created_by_payload"
    payload = Payload(target)
    content = {
        "beside": {"model": ARRAYS if write is write_pickle else WEIGHTS, "extra": payload},
        "inside": {"model": {"conv.weight": payload}},
        "instead": payload,
    }[place]
    path = write(tmp_path / f"evil.{suffix}", content)
    with pytest.raises(ValueError, match=f"evil.{suffix}"):
        read_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize(("suffix", "write"), [("pkl", write_pickle), ("pth", write_torch)])
def test_refusal_names_what_the_file_wants(tmp_path, suffix, write):
    path = write(tmp_path / f"evil.{suffix}", {"model": Payload(tmp_path / "x")})
    with pytest.raises(ValueError, match=r"refused: it wants (posix|nt)\.mkdir.*could run code"):
        read_checkpoint(path)


def test_the_payload_works_on_a_plain_unpickler(tmp_path):
    """So that the tests above can fail."""
    target = tmp_path / "created_by_payload"
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.is_dir()


@pytest.mark.parametrize(
    "opcodes",
    [
        pytest.param(b"cnumpy\nload\n.", id="other-function-of-numpy"),
        pytest.param(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", id="dotted-name"),
        pytest.param(b"cbuiltins\neval\n.", id="eval"),
        pytest.param(b"c__builtin__\ngetattr\n.", id="python-2-getattr"),
        pytest.param(b"ccopyreg\n_reconstructor\n.", id="any-object"),
        pytest.param(b"c_codecs\nencode\n(Vtext\nVrot13\ntR.", id="other-codec"),
        pytest.param(b"Vsomething\nQ.", id="persistent-id"),
    ],
)
def test_pickle_globals_are_refused(tmp_path, opcodes):
    (tmp_path / "evil.pkl").write_bytes(opcodes)
    with pytest.raises(ValueError, match=r"evil\.pkl (is refused|cannot be read)"):
        read_checkpoint(str(tmp_path / "evil.pkl"))


@pytest.mark.parametrize("suffix", ["pkl", "pth", "safetensors"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut-off"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"<html>404 Not Found</html>", id="web-page"),
    ],
)
def test_damaged_file(tmp_path, suffix, damage):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    good = tmp_path / "good"
    torch.save({"w": torch.zeros(1000)}, good)
    if suffix == "pkl":
        write_pickle(good, {"w": np.zeros(1000)})
    (tmp_path / f"bad.{suffix}").write_bytes(damage(good.read_bytes()))
    with pytest.raises(ValueError, match=rf"bad\.{suffix} cannot be read.*fresh copy") as caught:
        read_checkpoint(str(tmp_path / f"bad.{suffix}"))
    assert "weights_only" not in str(caught.value)  # no advice to load it without checks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            {"epoch": 3, "best": 0.5}, "holds no tensors.*'epoch', 'best'", id="no-tensors"
        ),
        pytest.param({"model": {}}, "holds no tensors", id="empty-model"),
        pytest.param([torch.zeros(1)], "holds a list", id="list"),
    ],
)
def test_file_without_weights(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_checkpoint(write_torch(tmp_path / "w.pth", content))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"it is a folder"):
        read_checkpoint(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="missing.pth"):
        read_checkpoint(str(tmp_path / "missing.pth"))


def damaged(data, seed):
    """One bit flipped, or the end cut off."""
    draw = random.Random(seed)
    place = draw.randrange(len(data))
    if seed % 5 == 0:
        return data[:place]
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def test_damaged_torch_files_never_give_other_weights(tmp_path):
    weights = {"a.weight": torch.randn(40, 9), "a.bias": torch.randn(40)}
    data = open(write_torch(tmp_path / "good.pth", weights), "rb").read()
    refused = 0
    for seed in range(50):
        (tmp_path / "bad.pth").write_bytes(damaged(data, seed))
        try:
            found = read_checkpoint(str(tmp_path / "bad.pth"))
        except ValueError as error:
            refused += "bad.pth" in str(error)
        else:
            assert_weights(found["model"], weights)
    assert refused > 25


@pytest.mark.parametrize("seed", range(0, 50, 5))
@pytest.mark.parametrize("suffix", ["pkl", "legacy.pth", "safetensors"])
def test_cut_or_lengthened_files(tmp_path, suffix, seed):
    good, bad = tmp_path / "good", tmp_path / f"bad.{suffix}"
    if suffix == "pkl":
        write_pickle(good, {"a.weight": np.ones(300)})
    elif suffix == "legacy.pth":
        torch.save({"a.weight": torch.ones(300)}, good, _use_new_zipfile_serialization=False)
    else:
        save_file = pytest.importorskip("safetensors.torch").save_file
        save_file({"a.weight": torch.ones(300)}, good)
    data = good.read_bytes()
    for content in (damaged(data, seed), data + b"more"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\..*cannot be read"):
            read_checkpoint(str(bad))


class Call:
    """What pickles as the call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(Call(bytearray, 2 * 10**9), id="bytearray"),
        pytest.param(Call(np.empty(0).__reduce__()[0], np.ndarray, (2 * 10**9,), b"b"), id="empty"),
        pytest.param(Call(np.float32(0).__reduce__()[0], np.dtype("V2000000000")), id="scalar"),
        pytest.param(Call(np.ndarray, (2 * 10**9,), "b"), id="ndarray"),
    ],
)
def test_small_pickles_take_little_memory(tmp_path, content):
    write_pickle(tmp_path / "evil.pkl", {"w": content})
    tracemalloc.start()
    with contextlib.suppress(ValueError):
        read_checkpoint(str(tmp_path / "evil.pkl"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 10**6


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(Call(bytearray, 2 * 10**9), id="bytearray"),
        pytest.param(Call(np.empty(0).__reduce__()[0], np.ndarray, (2 * 10**9,), b"b"), id="empty"),
    ],
)
def test_small_torch_files_that_take_much_memory(tmp_path, content, legacy):
    weights = {"w": torch.zeros(2), "x": content}
    torch.save(weights, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"evil\.pth is refused"):
        read_checkpoint(str(tmp_path / "evil.pth"))


def test_memo_of_a_large_number(tmp_path):
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\x0f.")
    tracemalloc.start()
    with pytest.raises(ValueError, match="no tensors"):
        read_checkpoint(str(tmp_path / "evil.pkl"))
    assert tracemalloc.get_traced_memory()[1] < 20 * 10**6
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["zip", "legacy", "pkl"])
def test_endless_opcodes_are_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(reading, "MAX_PICKLE", 10_000)
    monkeypatch.setattr(reading, "MAX_OPCODES", 10_000)
    opcodes = b"\x80\x02" + b"N0" * 20_000 + b"}."
    path = tmp_path / ("evil.pkl" if kind == "pkl" else "evil.pth")
    path.write_bytes(opcodes)
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", opcodes)
            archive.writestr("archive/version", "3")
    with pytest.raises(ValueError, match="longer than that of any network|not what PyTorch writes"):
        read_checkpoint(str(path))
