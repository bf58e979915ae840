"""tools/convert_centernet_weights.py as a user runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor

import centernet_support as public
from convert_centernet_weights import CenterNetFile, identify
from d2_multitask.checkpoint import load_weights, read_description
from d2_multitask.checkpoint.centernet import is_centernet
from d2_multitask.config import load_config
from d2_multitask.engine.model_file import trained_config
from d2_multitask.engine.predictor import load_trained_model
from tool_support import load_tool, run_tool


@pytest.fixture(scope="module")
def pose_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "multi_pose_r18.pth"
    torch.save({"epoch": 140, "state_dict": public.state_dict("r18", public.MULTI_POSE)}, path)
    return path


def test_converts_and_the_result_answers_as_the_file(pose_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "ours.pth"
    done = run_tool("convert_centernet_weights.py", tmp_path, pose_file, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "CenterNet's r18, multi_pose, 1 classes" in done.stdout
    assert "--config-file configs/centernet/multi_pose_r18.yaml --eval-only" in done.stdout

    cfg, _ = trained_config(output)
    assert cfg.MODEL.TASKS == load_config("centernet/multi_pose_r18.yaml").MODEL.TASKS
    cfg.MODEL.DEVICE = "cpu"
    converted = load_trained_model(cfg).eval()
    direct = build_model(cfg).eval()
    load_weights(direct, str(pose_file))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for name, head in converted.heads.items():
            mine = head.layers(converted.backbone(image))
            theirs = direct.heads[name].layers(direct.backbone(image))
            for key, value in mine.items():
                torch.testing.assert_close(value, theirs[key], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def tool():
    return load_tool("convert_centernet_weights.py")


def test_fresh_heads_are_said(tool, pose_file: Path, tmp_path: Path, capsys) -> None:
    config = ["--config-file", "centernet/mcn_r18_seg_det_pose.yaml"]
    assert tool.main([str(pose_file), "--output", str(tmp_path / "mcn.pth"), *config]) == 0
    assert read_description(tmp_path / "mcn.pth") is None
    printed = capsys.readouterr().out
    assert "fresh, random values (heads.seg)" in printed and "--eval-only" not in printed


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        pytest.param(["MODEL.CENTER_HEAD.NUM_CLASSES", "3"], "does not fit", id="classes"),
        pytest.param(["MODEL.RESNETS.DEPHT", "3"], "RESNETS.DEPTH", id="key"),
    ],
)
def test_a_config_that_does_not_fit(tool, pose_file, tmp_path, capsys, opts, message) -> None:
    output = tmp_path / "x.pth"
    assert tool.main([str(pose_file), "--output", str(output), *opts]) == 2
    assert message in capsys.readouterr().err and not output.exists()


def test_a_file_without_a_part_of_its_network(tool, tmp_path: Path, capsys) -> None:
    weights = public.state_dict("r18", public.CTDET)
    kept = {name: value for name, value in weights.items() if not name.startswith("layer4.1.")}
    torch.save({"state_dict": kept}, tmp_path / "part.pth")
    assert tool.main([str(tmp_path / "part.pth")]) == 2
    assert "lacks 10 tensors of its network" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["part.pth"]


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_wants_to_run_code(tool, tmp_path: Path, capsys) -> None:
    torch.save({"state_dict": {}, "epoch": _Bomb(tmp_path / "witness")}, tmp_path / "bomb.pth")
    assert tool.main([str(tmp_path / "bomb.pth")]) == 2
    assert "is refused: it wants" in capsys.readouterr().err
    assert not (tmp_path / "witness").exists()


def test_bad_files(tool, pose_file: Path, tmp_path: Path, capsys) -> None:
    cut = tmp_path / "cut.pth"
    cut.write_bytes(pose_file.read_bytes()[:100_000])
    assert tool.main([str(cut)]) == 2
    assert "damaged" in capsys.readouterr().err
    assert tool.main([str(tmp_path / "absent.pth")]) == 2
    assert "absent.pth" in capsys.readouterr().err


def test_identify() -> None:
    r18 = public.state_dict("r18", public.MULTI_POSE)
    assert is_centernet(r18)
    assert identify(r18, "f") == CenterNetFile("r18", "multi_pose", 1)
    ctdet = {name: v for name, v in r18.items() if not name.startswith(("hps", "hm_hp", "hp_off"))}
    assert identify(ctdet, "f") == CenterNetFile("r18", "ctdet", 1)


def _without(prefix: str) -> dict[str, Tensor]:
    weights = public.state_dict("r18", public.MULTI_POSE)
    return {name: value for name, value in weights.items() if not name.startswith(prefix)}


ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        pytest.param({"pre.0.conv.weight": ONE}, "Hourglass", id="hourglass"),
        pytest.param({"deconv_layers.0.weight": ONE}, "without deformable", id="plain ResNet"),
        pytest.param(lambda: _without("layer3.1."), "a part of a ResNet", id="part of a ResNet"),
        pytest.param({"base.base_layer.0.weight": ONE}, "'dlav0'", id="old DLA"),
        pytest.param({"features.0.weight": ONE}, "another network.*features.0", id="other"),
        pytest.param({"backbone.x.weight": ONE}, "needs no conversion.*backbone.x", id="ours"),
        pytest.param(lambda: {**_without("-"), "dep.0.weight": ONE}, "ddd", id="3D boxes"),
        pytest.param(lambda: _without("reg."), r"lacks the heads \['reg'\]", id="no offsets"),
        pytest.param(lambda: _without("hm_hp."), r"lacks the heads \['hm_hp'\]", id="cut off"),
    ],
)
def test_files_that_are_something_else(weights, message: str) -> None:
    with pytest.raises(ValueError, match=f"some.pth.*{message}"):
        identify(weights() if callable(weights) else weights, "some.pth")
