"""Which tensor of a file goes where: the model zoo's files, Caffe2's, torchvision's, timm's."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2 import model_zoo
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from torch import nn

from checkpoint.networks import (
    EXTRACTOR,
    Network,
    config,
    copied,
    load,
    network,
    randomised,
    save_pickle,
    save_torch,
)
from d2_multitask.checkpoint import ShapeMismatch
from d2_multitask.checkpoint.matching import match_weights
from support import needs_real_data, real_data


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def zoo_state():
    """Names and shapes of Keypoint R-CNN R50-FPN, random values; the heads' tensors are tiny."""
    cfg = model_zoo.get_config("COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        state = build_model(cfg).state_dict()
    return {
        name: torch.rand(value.shape if name.startswith("backbone.") else (1,))
        for name, value in state.items()
    }


@pytest.fixture(scope="module")
def zoo_file(tmp_path_factory):
    torch.manual_seed(1)
    state = zoo_state()
    path = tmp_path_factory.mktemp("zoo") / "model_final_keypoint.pkl"
    return save_pickle(path, state, __author__="Detectron2 Model Zoo"), state


def r50(neck):
    cfg = config(width=256, neck=neck)
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
    return Network(build_backbone(cfg, ShapeSpec(channels=3)))


def test_zoo_url(monkeypatch, tmp_path):
    model = network()
    weights = randomised(model.state_dict())
    urls = []

    def download(url, folder, *, filename):
        urls.append(url)
        return save_pickle(Path(folder) / filename, weights, __author__="Detectron2 Model Zoo")

    monkeypatch.setattr("iopath.common.file_io.download", download)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    report = load(model, "detectron2://COCO-Keypoints/test_zoo_url/model_final.pkl")
    assert urls == [
        "https://dl.fbaipublicfiles.com/detectron2/COCO-Keypoints/test_zoo_url/model_final.pkl"
    ]
    assert len(report.matched) == len(weights)
    assert report.file.startswith("detectron2://")


@pytest.mark.parametrize("neck", [256, 64])
def test_zoo_keypoint_rcnn(zoo_file, neck):
    path, weights = zoo_file
    model = r50(neck)
    fresh = copied(model.state_dict())
    report = load(model, path)
    state = model.state_dict()
    bottom_up = [name for name in state if name.startswith("backbone.bottom_up.")]
    necks = [name for name in state if name.startswith("backbone.fpn_")]
    assert (len(bottom_up), len(necks)) == (265, 10)
    assert report.matched == (bottom_up if neck == 64 else [*necks, *bottom_up])
    assert report.fresh == ["heads.box.weight", "heads.box.bias"]
    assert [mismatch.name for mismatch in report.mismatched] == (necks if neck == 64 else [])
    # 6 tensors of fpn_output3..5, and the heads of Keypoint R-CNN
    assert sorted(report.unused) == sorted(set(weights) - set(state))
    assert len(report.unused) == 38
    for name, value in state.items():
        assert torch.equal(value, weights[name] if name in report.matched else fresh[name]), name


def caffe2_name(name):
    """Detectron2's name of a ResNet's tensor -> the one in MSRA/R-50.pkl (res2_0_branch2a_bn_s)."""
    name = name.removeprefix("backbone.bottom_up.").removeprefix("stem.")
    if name.startswith("conv1.norm."):
        name = f"res.{name}"
    for ours, theirs in {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b"}.items():
        if name.startswith("res") and not name.startswith("res.conv1"):
            name = name.replace(f".{ours}.", f".{theirs}.")
    name = name.replace(".conv3.", ".branch2c.")
    name = name.replace("norm.weight", "bn.s").replace("norm.bias", "bn.b")
    name = name.replace("res.conv1.", "res_conv1_")
    return name.replace(".weight", ".w").replace(".bias", ".b").replace(".", "_")


def caffe2_state(model):
    state = {
        name: value
        for name, value in randomised(model.state_dict()).items()
        if name.startswith("backbone.bottom_up.") and "running" not in name
    }
    names = {name: caffe2_name(name) for name in state}
    weights = {names[name]: value for name, value in state.items()}
    weights |= {"fc1000_w": torch.rand(10, 4), "fc1000_b": torch.rand(10)}
    return weights, names


def test_caffe2_r50(tmp_path):
    model = r50(64)
    weights, names = caffe2_state(model)
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch1_w", "res5_2_branch2c_bn_b"} <= set(weights)
    path = save_pickle(tmp_path / "R-50.pkl", weights | {"conv1_w_momentum": torch.rand(1)})
    report = load(model, path)
    state = model.state_dict()
    for name, theirs in names.items():
        assert torch.equal(state[name], weights[theirs]), name
    # scale and shift contain the statistics, which the frozen batch norm then sets to 0 and 1
    assert len(report.matched) == 265
    assert torch.equal(state["backbone.bottom_up.stem.conv1.norm.running_mean"], torch.zeros(64))
    assert sorted(report.unused) == ["fc1000_b", "fc1000_w"]
    assert len(report.fresh) == 12
    assert report.mismatched == []


def test_caffe2_names_of_another_width(tmp_path):
    weights, names = caffe2_state(network(width=8))
    weights["res5_1_branch2b_w"] = torch.rand(1, 2, 3)
    model = network(width=8)
    report = load(model, save_pickle(tmp_path / "R-18.pkl", weights))
    name = "backbone.bottom_up.res5.1.conv2.weight"
    assert report.mismatched == [ShapeMismatch(name, (1, 2, 3), (64, 64, 3, 3))]


def test_zoo_imagenet_file_with_heuristics(tmp_path):
    model = network()
    weights = {
        name.removeprefix("backbone.bottom_up."): value
        for name, value in randomised(model.state_dict()).items()
        if name.startswith("backbone.bottom_up.")
    }
    keys = {"__author__": "torchvision", "matching_heuristics": True}
    report = load(model, save_pickle(tmp_path / "R-18.pkl", weights, **keys))
    assert report.unused == report.mismatched == []
    for name, value in weights.items():
        assert torch.equal(model.state_dict()[f"backbone.bottom_up.{name}"], value)


def test_query_asks_for_heuristics(tmp_path):
    model = network()
    weights = {name.removeprefix("backbone."): v for name, v in model.backbone.state_dict().items()}
    path = save_torch(tmp_path / "w.pth", weights)
    assert len(load(model, f"{path}?matching_heuristics=True").matched) == len(weights)
    with pytest.raises(ValueError, match="asks for \\['other'\\]"):
        load(model, f"{path}?other=1")


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_torchvision_resnet_into_detectron2s(tmp_path, norm):
    trained = torchvision.models.resnet18(weights=None)
    trained.load_state_dict(randomised(trained.state_dict()))
    path = save_torch(tmp_path / "resnet18.pth", trained.state_dict())
    model = network(width=64, norm=norm)
    report = load(model, path)
    assert report.prefix == "backbone.bottom_up."
    counters = [] if norm == "BN" else [k for k in trained.state_dict() if "num_batches" in k]
    assert report.unused == [*counters, "fc.weight", "fc.bias"]
    image = torch.rand(1, 3, 64, 64)
    x = trained.eval().maxpool(trained.relu(trained.bn1(trained.conv1(image))))
    features = model.backbone.bottom_up.eval()(image)
    for level, layer in enumerate([trained.layer1, trained.layer2, trained.layer3, trained.layer4]):
        x = layer(x)
        torch.testing.assert_close(features[f"res{level + 2}"], x)


def test_torchvision_file_as_model_weights(tmp_path):
    trained = torchvision.models.mobilenet_v2(weights=None).state_dict()
    model = network(builder=EXTRACTOR)
    report = load(model, save_torch(tmp_path / "mobilenet_v2.pth", trained))
    assert report.prefix == "backbone.bottom_up.body."
    assert len(report.matched) == 312
    assert report.unused == ["classifier.1.weight", "classifier.1.bias"]
    weight = model.backbone.bottom_up.body.state_dict()["features.18.0.weight"]
    assert torch.equal(weight, trained["features.18.0.weight"])


def test_timm_file_as_model_weights(tmp_path):
    timm = pytest.importorskip("timm")
    trained = timm.create_model("mobilenetv3_small_100").state_dict()
    cfg = config(builder=EXTRACTOR)
    cfg.MODEL.FEATURE_EXTRACTOR.NAME = "timm/mobilenetv3_small_100"
    model = Network(build_backbone(cfg, ShapeSpec(channels=3)))
    report = load(model, save_torch(tmp_path / "w.pth", {"state_dict": trained}))
    assert report.prefix == "backbone.bottom_up.body.model."
    assert not [name for name in report.fresh if "bottom_up" in name]
    assert {name.split(".")[0] for name in report.unused} == {"conv_head", "classifier"}


@needs_real_data
def test_real_mobilenet_v2(caplog):
    path = str(real_data() / "weights" / "mobilenet_v2_imagenet.pth")
    model = network(builder=EXTRACTOR)
    with caplog.at_level(logging.INFO):
        report = load(model, path)
    assert len(report.matched) == 312
    assert report.unused == report.mismatched == []
    assert "| backbone.bottom_up " in caplog.text


def test_prefix_needs_fitting_shapes():
    """Two places have the name; the one where the shape fits as well is the right one."""
    model = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(4, 5)})
    weights = randomised(nn.Linear(4, 5).state_dict())
    matched, report = match_weights(model, {"model": weights}, "file")
    assert report.prefix == "b."
    assert set(matched) == {"b.weight", "b.bias"}
