"""What a load says: the report in full, and weights of another architecture."""

from __future__ import annotations

import logging

import pytest
import torch
import torchvision
from torch import nn

from checkpoint.networks import copied, load, network, randomised, save_pickle, save_torch
from d2_multitask.checkpoint import LoadReport, ShapeMismatch, load_weights


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_report_covers_model_and_file(tmp_path):
    model = network(neck=8)
    weights = randomised(model.state_dict())
    weights["backbone.fpn_lateral2.bias"] = torch.rand(3)
    del weights["heads.box.bias"]
    weights["heads.mask.weight"] = torch.rand(1)
    report = load(model, save_torch(tmp_path / "w.pth", weights))
    assert report.fresh == ["heads.box.bias"]
    assert report.unused == ["heads.mask.weight"]
    assert report.mismatched == [ShapeMismatch("backbone.fpn_lateral2.bias", (3,), (8,))]
    names = [*report.matched, *report.fresh, *(mismatch.name for mismatch in report.mismatched)]
    assert sorted(names) == sorted(model.state_dict())
    assert report.file.endswith("w.pth")


def test_report_is_one_table(tmp_path, caplog):
    model = network()
    weights = randomised(model.state_dict())
    del weights["heads.box.bias"]
    path = save_torch(tmp_path / "w.pth", weights)
    with caplog.at_level(logging.INFO):
        report = load(model, path)
    records = [r for r in caplog.records if "Loading from" not in r.message]
    assert [record.message for record in records] == [str(report)]
    assert records[0].levelno == logging.INFO


def test_report_text():
    report = LoadReport(
        matched=["backbone.bottom_up.stem.conv1.weight", "backbone.fpn_lateral2.weight"],
        fresh=["heads.box.weight", "backbone.fpn_lateral3.bias"],
        unused=["roi_heads.box_head.fc1.weight", "fc1000_w"],
        mismatched=[ShapeMismatch("backbone.fpn_output2.weight", (256, 3), (64, 3))],
        file="zoo.pkl",
        prefix="backbone.",
        ema=True,
    )
    lines = str(report).splitlines()
    assert lines[0] == (
        "Weights from zoo.pkl, its names placed below 'backbone', exponential moving average "
        "(number of tensors):"
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[1:-2]]
    assert rows[0] == ["module", "matched", "left fresh", "other shape", "unused in file"]
    assert rows[2:] == [
        ["backbone.bottom_up", "1", "", "", ""],
        ["backbone.fpn_lateral*", "1", "1", "", ""],
        ["heads.box", "", "1", "", ""],
        ["backbone.fpn_output*", "", "", "1", ""],
        ["roi_heads.box_head", "", "", "", "1"],
        ["fc*", "", "", "", "1"],
        ["total", "2", "2", "1", "2"],
    ]
    assert lines[-1] == "  backbone.fpn_output2.weight: (256, 3) in the file, (64, 3) in the model"


def test_warns_when_a_part_of_the_feature_network_got_nothing(tmp_path, caplog):
    model = network()
    weights = {k: v for k, v in model.state_dict().items() if "res5.1" not in k}
    load(model, save_torch(tmp_path / "w.pth", weights))
    assert "10 tensors of the feature network keep their initial values" in caplog.text


def test_weights_of_another_architecture(tmp_path):
    trained = torchvision.models.mobilenet_v2(weights=None).state_dict()
    path = save_torch(tmp_path / "mobilenet_v2.pth", trained)
    model = network()
    before = copied(model.state_dict())
    with pytest.raises(ValueError, match=r"mobilenet_v2\.pth.*0 of 110 .*\(0 %\)") as info:
        load(model, path)
    assert "features.0.0.weight" in str(info.value)
    assert "backbone.bottom_up.stem.conv1.weight" in str(info.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_another_width(tmp_path):
    path = save_torch(tmp_path / "wide.pth", network(width=16, neck=16).state_dict())
    with pytest.raises(
        ValueError, match=r"\(16, 3, 7, 7\) in the file, \(8, 3, 7, 7\) in the model"
    ):
        load(network(width=8), path)


def test_share_counts_the_backbone_without_counters(tmp_path):
    model = network(norm="BN")
    names = [name for name in model.state_dict() if name.startswith("backbone.")]
    names = [name for name in names if not name.endswith("num_batches_tracked")]
    half = -(-len(names) // 2)
    state = model.state_dict()
    enough = {name: state[name] for name in names[:half]}
    load(model, save_torch(tmp_path / "enough.pth", enough))
    too_few = {name: state[name] for name in names[: half - 1]}
    too_few |= {name: value for name, value in state.items() if name.endswith("batches_tracked")}
    with pytest.raises(ValueError, match="another architecture"):
        load(model, save_torch(tmp_path / "too_few.pth", too_few))


def test_ambiguous_caffe2_names(tmp_path):
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.ModuleDict({"fc": nn.Linear(2, 2)}) for _ in range(2))

    path = save_pickle(tmp_path / "twins.pkl", {"fc_w": torch.rand(2, 2), "fc_b": torch.rand(2)})
    with pytest.raises(ValueError, match="twins.pkl fit the model in more than one way"):
        load(Twins(), path)


def test_no_weights():
    model = network()
    before = copied(model.state_dict())
    assert load(model, "") is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_load_weights_of_a_part(tmp_path):
    part = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    weights = randomised(part.state_dict())
    report = load_weights(part, save_torch(tmp_path / "w.pth", weights))
    assert report.fresh == report.unused == []
    assert all(torch.equal(value, weights[name]) for name, value in part.state_dict().items())
    with pytest.raises(ValueError, match="network's tensors"):
        load_weights(nn.Linear(2, 2), str(tmp_path / "w.pth"))
