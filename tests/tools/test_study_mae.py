"""tools/study_mae.py on a file as the authors publish them, with random values."""

from __future__ import annotations

import json
import os
import shlex

import cv2
import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model

from d2_multitask.config import load_config
from mae_support import authors_weights
from tool_support import SMALL_MAE, load_tool, run_tool


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights, and the first images of an ECSSD; there is no other dataset."""
    root = tmp_path_factory.mktemp("study")
    (root / "datasets" / "ecssd" / "images").mkdir(parents=True)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        cv2.imwrite(str(root / "datasets" / "ecssd" / "images" / f"{number}.png"), pixels)
    torch.manual_seed(0)
    model = build_model(load_config("quick/mae_tiny_imagenet.yaml", list(SMALL_MAE)))
    torch.save({"model": authors_weights(model)}, root / "mae_visualize.pth")
    return root


def words(*more: str, config: str = "quick/mae_tiny_imagenet.yaml") -> list[str]:
    given = ("--config-file", config, "--weights", "mae_visualize.pth", "--output", "study")
    return [*given, *more]


def test_dry_run_of_vit_large(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    tool = load_tool("study_mae.py")
    opts = ("MODEL.MAE.SIZE", "large", "MODEL.MAE.NORM_PIX_LOSS", "False")
    assert tool.main(words("--dry-run", *opts, config="mae_pretrain_base.yaml")) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert {line[1].rpartition("/")[2] for line in lines} == {
        *("train_net.py", "compare_tasks.py", "compare_relations.py"),
        *("segment_unlabelled.py", "evaluate_proposals.py"),
    }
    asked = [line for line in lines if "evaluate_proposals" not in line[1]]
    assert all("MODEL.MAE.SIZE" in line for line in asked) and not os.path.exists("study")
    with pytest.raises(SystemExit):
        tool.main(words("--seeds", "4"))
    assert tool.main(words("--dry-run", config="quick/mcn_seg_det.yaml")) == 2
    assert "META_ARCHITECTURE: found 'MultitaskCenterNet'" in capsys.readouterr().err
    assert tool.main(words("--steps", "nothing", *opts)) == 2
    assert "--steps: found ['nothing'], expected some of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "side", "patch", "rate"),
    [("mae_pretrain_base.yaml", 224, 16, 0.2), ("quick/mae_tiny_imagenet.yaml", 64, 8, 1)],
)
def test_every_config_can_be_built_and_has_the_network(config, side, patch, rate, tmp_path):
    tool = load_tool("study_mae.py")
    args = tool.argparse.Namespace(
        config_file=config, weights="w.pth", output=tmp_path, opts=["MODEL.DEVICE", "cpu"]
    )
    configs = {k: v for step in tool.Study(args).steps() for k, v in step.configs.items()}
    assert len(configs) == 2 + 4 + 12 + 4 + 2
    for name, content in configs.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        cfg = load_config(str(tmp_path / f"{name}.yaml"))
        if name.startswith("reconstruction"):  # KEY VALUE of its command
            assert list(cfg.MODEL.MAE.IMAGE_SIZE) == [side, side]
            continue
        assert cfg.MODEL.DEVICE == "cpu"
        if name.startswith("detector"):
            kind = name.partition("_")[2]
            entry = cfg.DATASETS.REGISTER[0]
            assert entry["JSON"].startswith(str(tmp_path / f"{kind}_train"))
            assert cfg.DATASETS.TRAIN == (entry["NAME"],)
            continue
        assert list(cfg.MODEL.MAE.IMAGE_SIZE) == [side, side]
        untrained = name.rpartition("_")[2] == "untrained" or "scratch" in name
        assert cfg.MODEL.WEIGHTS == ("" if untrained else "w.pth")
    cfg = load_config(str(tmp_path / "decoder_32.yaml"))
    assert cfg.MODEL.FOREGROUND_HEAD.UPSCALE == patch and cfg.DATASETS.TRAIN == ("ecssd_32",)
    assert list(cfg.INPUT.RANDOM_RESIZED_CROP.SIZE) == [max(side, 96)] * 2
    assert cfg.SOLVER.BASE_LR == pytest.approx(0.001 * rate)


def test_steps_are_run_once_and_failures_are_named(folder, monkeypatch, capsys):
    steps = ("--steps", "reconstruction_ecssd", "classification", "relations_ecssd")
    done = run_tool("study_mae.py", folder, *words(*steps, *SMALL_MAE), datasets=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "reconstruction_ecssd: finished" in done.stdout
    assert f"left out: found no folder {folder}/tiny-imagenet-200" in done.stdout
    assert "relations_ecssd: FAILED, see study/logs/relations_ecssd.txt" in done.stderr
    log = (folder / "study" / "logs" / "relations_ecssd.txt").read_text()
    assert "--report: found 300 360, expected START < STOP of the 2 images" in log
    table = (folder / "study" / "table.md").read_text()
    scores = json.loads((folder / "study/reconstruction_ecssd/results.json").read_text())
    shown = f"{scores['reconstruction']['error_of_smooth_surface']:.4g}"
    assert "error_of_smooth_surface" in table and shown in table

    stamp = folder / "study" / "reconstruction_ecssd" / "finished.json"
    before = stamp.stat().st_mtime_ns
    monkeypatch.chdir(folder)
    tool = load_tool("study_mae.py")
    again = words("--steps", "reconstruction_ecssd", *SMALL_MAE)
    assert tool.main(again) == 0 and stamp.stat().st_mtime_ns == before
    assert tool.main([*again, "SEED", "3"]) == 2
    assert "found SEED, which the study sets itself" in capsys.readouterr().err
    assert tool.main([*again, "MODEL.MAE.NORM_PIX_LOSS", "True"]) == 2
    assert "found a step with other command than now" in capsys.readouterr().err
