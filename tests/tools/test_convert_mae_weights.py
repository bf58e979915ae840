"""The converter as a user runs it, and its library part in process."""

from __future__ import annotations

import subprocess

import pytest
import torch

from convert_mae_weights import WRITTEN_DIALECTS, complete_names, convert_mae_file
from d2_multitask.checkpoint import load_weights, read_checkpoint
from d2_multitask.modeling.mae import MAEEncoder
from mae_support import authors_weights, small_mae
from support import REPOSITORY
from tool_support import run_tool


@pytest.fixture(scope="module")
def model():
    return small_mae(seed=3)


@pytest.fixture
def source(model, tmp_path):
    path = tmp_path / "mae.pth"
    torch.save({"model": authors_weights(model)}, path)
    return str(path)


def convert(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_tool("convert_mae_weights.py", REPOSITORY, *arguments)


def test_command_line(source, model, tmp_path):
    target = tmp_path / "mae.safetensors"
    done = convert(source, str(target), "--to", "huggingface_v4", "--image-size", "48", "24")
    assert done.returncode == 0, done.stderr
    assert "| encoder   |        30 |         1 |       0 |" in done.stdout
    assert "Resized: pos_embed: (1, 17, 16) in the file, (1, 19, 16) in the model" in done.stdout
    assert "CC BY-NC 4.0" in done.stdout
    found = read_checkpoint(str(target))["model"]
    assert "vit.encoder.layer.1.attention.attention.key.bias" in found


@pytest.mark.slow
def test_mistake_is_one_message(tmp_path):
    done = convert(str(tmp_path / "absent.pth"), str(tmp_path / "mae.pth"))
    assert done.returncode == 2
    assert "Error: There is no weight file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("first", WRITTEN_DIALECTS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back(first, suffix, source, model, tmp_path):
    there, back = str(tmp_path / f"there{suffix}"), str(tmp_path / "back.pth")
    convert_mae_file(source, there, first)
    convert_mae_file(there, back, "authors")
    expected = authors_weights(model)
    found = read_checkpoint(back)["model"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_huge_becomes_a_network_of_16_pixels(tmp_path):
    """Patches of 14 on 224 pixels -> of 16 on 224: 16x16 positions become 14x14."""
    model = small_mae(image_size=224, patch_size=14)
    source, target = str(tmp_path / "p14.pth"), str(tmp_path / "p16.pth")
    torch.save(authors_weights(model), source)
    report = convert_mae_file(source, target, "authors", patch_size=16)
    assert sorted(report.resized_names) == [
        "decoder_pos_embed",
        "decoder_pred.bias",
        "decoder_pred.weight",
        "patch_embed.proj.weight",
        "pos_embed",
    ]
    loaded = small_mae(image_size=224, patch_size=16)
    assert len(load_weights(loaded, target).matched) == len(loaded.state_dict())
    encoder = MAEEncoder(image_size=224, patch_size=16, embed_dim=16, depth=2, num_heads=2)
    load_weights(encoder, source)  # the same at load time
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, loaded.encoder.state_dict()[name]), name


def test_heads_are_dropped_and_missing_tensors_told(model, tmp_path):
    weights = authors_weights(model) | {"head.weight": torch.zeros(3)}
    del weights["norm.bias"]
    torch.save(weights, tmp_path / "mae.pth")
    target = str(tmp_path / "out.pth")
    report = convert_mae_file(str(tmp_path / "mae.pth"), target, "authors")
    assert report.dropped == ["head.weight"] and report.fresh == ["norm.bias"]
    assert "Dropped 1: head.weight" in str(report)


@pytest.mark.parametrize(
    ("weights", "target", "message"),
    [
        pytest.param({"conv.weight": 0}, "a.pth", "holds no MAE: found.*conv.weight", id="resnet"),
        pytest.param(None, "a.onnx", "expected .pth or .safetensors", id="ending"),
        pytest.param(None, "mae.pth", "is the source", id="itself"),
        pytest.param("half", "a.pth", "of the encoder are missing", id="half"),
    ],
)
def test_refused(weights, target, message, model, tmp_path):
    path = tmp_path / "mae.pth"
    if weights == "half":
        tensors = {k: v for k, v in authors_weights(model).items() if "mlp" not in k}
    elif weights is None:
        tensors = authors_weights(model)
    else:
        tensors = dict.fromkeys(weights, torch.zeros(1))
    torch.save(tensors, path)
    with pytest.raises(ValueError, match=message):
        convert_mae_file(str(path), str(tmp_path / target), "authors")


def test_complete_names(model):
    assert sorted(complete_names(authors_weights(model))) == sorted(authors_weights(model))
