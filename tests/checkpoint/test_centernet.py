"""Files with CenterNet's names: every tensor finds its place, and nothing is silent."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

import centernet_support as public
from d2_multitask.checkpoint import load_weights
from d2_multitask.checkpoint.centernet import (
    convert_centernet,
    our_name,
)
from d2_multitask.config import load_config


def model_of(config_file: str, *overrides: str) -> nn.Module:
    return build_model(load_config(f"centernet/{config_file}", ["MODEL.DEVICE", "cpu", *overrides]))


@pytest.mark.parametrize(
    ("config_file", "network", "heads"),
    [
        pytest.param("ctdet_r18.yaml", "r18", public.CTDET, id="ctdet R18"),
        pytest.param("multi_pose_dla34_3x.yaml", "dla34", public.MULTI_POSE, id="pose DLA-34"),
        pytest.param(
            "ctdet_r101.yaml", "r101", public.CTDET, id="ctdet R101", marks=pytest.mark.slow
        ),
        pytest.param(
            "ctdet_dla34_2x.yaml", "dla34", public.CTDET, id="ctdet DLA-34", marks=pytest.mark.slow
        ),
    ],
)
def test_converts_without_remainder(tmp_path: Path, config_file, network, heads) -> None:
    weights = public.state_dict(network, heads)
    path = tmp_path / "file.pth"
    torch.save(
        {
            "epoch": 140,
            "state_dict": {f"module.{name}": value for name, value in weights.items()},
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1}]},
        },
        path,
        # As PyTorch 0.4 wrote the public files.
        _use_new_zipfile_serialization=False,
    )
    model = model_of(config_file)
    report = load_weights(model, str(path))
    assert not report.fresh and not report.mismatched
    dead = {name for name in weights if public.is_dead(name)}
    assert set(report.unused) == set(report.reasons) == dead
    # Every value of the file is in the model, once, unchanged.
    state = model.state_dict()
    used = [name for name in weights if name not in dead]
    assert len(used) == len(report.matched) == len({our_name(name) for name in used})
    for name in used:
        torch.testing.assert_close(state[our_name(name)], weights[name], rtol=0, atol=0)


def test_without_counters_of_batches() -> None:
    model = model_of("ctdet_r18.yaml")
    weights = public.state_dict("r18", public.CTDET, counters=False)
    missing = set(model.state_dict()) - set(convert_centernet(weights, model).weights)
    assert missing and all(name.endswith("num_batches_tracked") for name in missing)


def small(config: str = "multi_pose_r18.yaml", *overrides: str) -> nn.Module:
    """The names of a published network, few channels."""
    narrow = ["MODEL.RESNETS.RES2_OUT_CHANNELS", "4", "MODEL.RESNETS.STEM_OUT_CHANNELS", "4"]
    narrow += ["MODEL.UPSAMPLING.CHANNELS", "[4,4,4]"]
    for head in ("CENTER_HEAD", "DET_HEAD", "POSE_HEAD"):
        narrow += [f"MODEL.{head}.CONV_DIM", "4"]
    return model_of(config, *narrow, *overrides)


def file_of(model: nn.Module, classes: int | None = None) -> dict[str, Tensor]:
    """What CenterNet would call the tensors of ``small()``, random values."""
    full = public.state_dict("r18", public.MULTI_POSE)
    state = model.state_dict()
    full = {name: value for name, value in full.items() if our_name(name) in state}
    torch.manual_seed(1)
    weights = {}
    for name in full:
        shape = list(state[our_name(name)].shape)
        if classes and name.startswith("hm.2."):
            shape[0] = classes
        weights[name] = torch.rand(shape) if full[name].is_floating_point() else torch.tensor(1)
    return weights


def test_eighty_classes_into_one_person(tmp_path: Path) -> None:
    model = small()
    weights = file_of(model, classes=80)
    torch.save({"state_dict": weights}, tmp_path / "file.pth")
    report = load_weights(model, str(tmp_path / "file.pth"))
    assert not report.mismatched and not report.fresh
    assert "80 classes" in str(report) and "person" in str(report)
    torch.testing.assert_close(model.heads["center"].heatmap[1].weight, weights["hm.2.weight"][:1])


def test_heads_that_the_file_lacks_are_fresh_and_those_of_the_model_are_named(
    tmp_path: Path,
) -> None:
    weights = file_of(small())
    torch.save({"state_dict": weights}, tmp_path / "pose.pth")
    seg_det = small("multi_pose_r18.yaml", "MODEL.TASKS", "['seg','det']")
    report = load_weights(seg_det, str(tmp_path / "pose.pth"))
    assert report.fresh and all(name.startswith("heads.seg.") for name in report.fresh)
    lost = {name for name in weights if name.startswith(("hps.", "hm_hp.", "hp_offset."))}
    assert set(report.unused) == set(report.reasons) == lost
    assert "MODEL.TASKS" in str(report)


SUBSETS = [
    list(subset)
    for size in (1, 2, 3)
    for subset in itertools.combinations(("seg", "det", "pose"), size)
]


@pytest.mark.parametrize("tasks", SUBSETS, ids="_".join)
def test_detection_weights_start_every_subset(tmp_path: Path, tasks: list[str]) -> None:
    """80 classes of boxes -> people; what boxes do not need is fresh, and named."""
    detector = small("ctdet_r18.yaml")
    weights = file_of(detector)
    torch.save({"state_dict": weights}, tmp_path / "ctdet.pth")
    model = small("mcn_r18_seg_det_pose.yaml", "MODEL.TASKS", str(tasks))
    report = load_weights(model, str(tmp_path / "ctdet.pth"))
    state = model.state_dict()
    used = [our_name(name) for name in weights if our_name(name) in state]
    assert set(report.matched) == set(used) and not report.mismatched
    assert sum(name.startswith("backbone.") for name in used) == sum(
        name.startswith("backbone.") for name in state
    )
    fresh_heads = {".".join(name.split(".")[:2]) for name in report.fresh}
    assert fresh_heads == {f"heads.{task}" for task in tasks if task != "det"}
    for head in fresh_heads:
        assert f"| {head} " in str(report)
    needs_centers = {"det", "pose"} & set(tasks)
    assert ("80 classes" in str(report)) == bool(needs_centers)
    assert set(report.reasons) == {name for name in weights if our_name(name) not in state}


def test_scaled_last_layers_predict_the_same() -> None:
    """A head whose output is multiplied by 16 gets a sixteenth of the weights."""
    plain, scaled = small(), small("multi_pose_r18.yaml", "MODEL.DET_HEAD.WH_SCALE", "16.0")
    weights = file_of(plain)
    feature = {"p2": torch.randn(1, 4, 5, 6)}
    answers = []
    for model in (plain, scaled):
        model.load_state_dict(convert_centernet(weights, model).weights)
        with torch.no_grad():
            head = model.heads["det"]
            answers.append(head.layers(feature)["wh"] * head.wh_scale)
    torch.testing.assert_close(*answers)


def test_plain_convolutions_are_refused() -> None:
    model = small("multi_pose_r18.yaml", "MODEL.UPSAMPLING.DEFORMABLE", "False")
    with pytest.raises(ValueError, match="MODEL.UPSAMPLING.DEFORMABLE True"):
        convert_centernet(public.state_dict("r18", public.MULTI_POSE), model, "file.pth")


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    torch.save({"state_dict": {}, "epoch": _Bomb(str(witness))}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match="refused"):
        load_weights(nn.Linear(1, 1), str(tmp_path / "bomb.pth"))
    assert not witness.exists()
