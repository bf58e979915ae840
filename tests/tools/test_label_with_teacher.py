"""The tool with networks of random weights: what they answer is in the files, whoever runs them."""

from __future__ import annotations

import json
import pickle
import re
import shlex
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.model_zoo import get_config_file
from detectron2.modeling import build_model
from PIL import Image

from d2_multitask.config import load_config
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.loader import build_train_loader, get_training_dicts
from d2_multitask.engine.trained_model import TrainedModel
from d2_multitask.runtime import Result
from d2_multitask.runtime.model_info import OutputInfo
from support import REPOSITORY
from tool_support import load_tool, small_network

tool = load_tool("label_with_teacher.py")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("one.png", "two.png"):
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def label(output: Path, *words: object) -> dict:
    assert tool.main(["--output", str(output), *map(str, words)]) == 0
    return json.loads((output / "labels.json").read_text())


def test_a_network_of_ours(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "MIN_SCORE", 0.0)
    weights, output = small_network(tmp_path), tmp_path / "out"
    content = label(output, "--model", weights, "--input", photos)
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert names == {1: "one.png", 2: "two.png"}
    assert json.loads((output / "images.json").read_text()) == {"images": content["images"]}
    image = np.ascontiguousarray(np.asarray(Image.open(photos / "one.png"))[..., ::-1])
    result = TrainedModel(weights)(image)
    best = max((a for a in content["annotations"] if a["image_id"] == 1), key=lambda a: a["score"])
    assert best["score"] == pytest.approx(float(result.scores.max()), abs=1e-4)
    assert len(best["keypoint_scores"]) == 17 == len(best["keypoints"]) / 3
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        assert x >= 0 and y >= 0 and x + w <= 64.01 and y + h <= 48.01 and a["iscrowd"] == 0
    ids = np.asarray(Image.open(output / "sem_seg/one.png"))
    confidence = np.asarray(Image.open(output / "sem_seg_confidence/one.png"))
    assert np.array_equal(ids, result.maps["sem_seg"].argmax(0))
    probable = np.exp(result.maps["sem_seg"] - result.maps["sem_seg"].max(0)).sum(0)
    assert np.abs(confidence - 255 / probable).max() <= 0.51
    assert content["stuff_classes"] == ["background", "person"]
    boxes = label(tmp_path / "boxes", "--model", weights, "--input", photos, "--tasks", "det")
    assert boxes["annotations"] and not (tmp_path / "boxes/sem_seg").exists()
    assert "keypoints" not in {**boxes["categories"][0], **boxes["annotations"][0]}


def test_ids_of_a_coco_file_and_some_tasks(photos, tmp_path, capsys, monkeypatch):
    size = {"height": 48, "width": 64}
    images = [{"id": 70 + n, "file_name": f"{x}.png", **size} for n, x in enumerate(("two", "one"))]
    (tmp_path / "true.json").write_text(json.dumps({"images": images}))
    words = ["--model", small_network(tmp_path), "--input", tmp_path / "true.json"]
    content = label(tmp_path / "out", *words, "--image-root", photos, "--tasks", "seg")
    assert [image["id"] for image in content["images"]] == [70, 71]
    assert "annotations" not in content and (tmp_path / "out/sem_seg/one.png").is_file()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    for changed, message in (
        (["--output", str(tmp_path / "out"), "--image-root", "x"], "expected a new folder"),
        (["--output", str(tmp_path / "true.json")], "true.json: found files, expected a new"),
        (["--output", str(tmp_path / "new")], "without --image-root FOLDER"),
        (
            ["--output", str(tmp_path / "new"), "--input", "a.mp4"],
            "found the video a.mp4, expected",
        ),
        (
            ["--output", str(tmp_path / "new"), "--image-root", "x", "--input", "a.json", "b.json"],
            "found ['a.json', 'b.json'], expected one dataset",
        ),
        (["--output", str(tmp_path / "new"), "--classes", "dog"], "--classes: found 'dog'"),
        (["--output", str(tmp_path / "new"), "--tasks", "sem"], "--tasks: found ['sem'], expected"),
        (
            ["--output", str(tmp_path / "new"), "--tasks", "center"],
            "some of ['det', 'pose', 'seg']",
        ),
        (
            ["--output", str(tmp_path / "new"), "--classes", "person", "--tasks", "seg"],
            "found --classes, which are those of objects, with the tasks ['seg']",
        ),
        (["--output", str(tmp_path / "new"), "TEST.TASKS", "['dot']"], "found 'dot', expected"),
    ):
        if "--classes" in changed:
            words += ["--image-root", photos]
        assert tool.main([*map(str, words), *changed]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()  # the command can be typed again


def test_a_network_of_torchvision(photos, tmp_path, capsys):
    models = pytest.importorskip("torchvision").models
    name = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=91).eval()
    for layers in model.head.classification_head.module_list:  # all others score below MIN_SCORE
        logits = layers[-1].bias.data.view(-1, 91)
        logits[:, [1, 18]] += torch.tensor([4.0, 5.0])  # COCO's ids of person and dog
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    words = ["--config-file", f"torchvision/{name}", "--input", photos]
    words += ["--classes", "dog", "person", "MODEL.WEIGHTS", tmp_path / "weights.pth"]
    content = label(tmp_path / "out", *words)
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "dog"), (2, "person")]
    pixels = torch.from_numpy(np.array(Image.open(photos / "one.png"))).permute(2, 0, 1) / 255
    with torch.no_grad():
        found = model([pixels])[0]
    scores = defaultdict(list)
    for a in content["annotations"]:
        scores[a["image_id"], a["category_id"]].append(a["score"])
    assert set(scores) == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert all(0 < score <= 1 for one in scores.values() for score in one)
    for category, number in ((1, 18), (2, 1)):
        best = float(found["scores"][found["labels"] == number].max())
        assert max(scores[1, category]) == pytest.approx(best, abs=1e-4)
    assert tool.main(["--output", str(tmp_path / "new"), *map(str, words[:-1])]) == 2
    assert "expected MODEL.WEIGHTS FILE" in capsys.readouterr().err
    words[words.index("dog")] = "unicorn"
    assert tool.main(["--output", str(tmp_path / "new"), *map(str, words)]) == 2
    assert "--classes: found 'unicorn'" in capsys.readouterr().err


def test_files_that_are_no_weights_of_torchvision(photos, tmp_path, capsys):
    pytest.importorskip("torchvision")
    (tmp_path / "text.pth").write_text("not weights\n")
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"a": np.zeros(100)})[:50])
    (tmp_path / "empty.pth").touch()
    torch.save({"head": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save({"head": 1}, tmp_path / "numbers.pth")
    words = ["--config-file", "torchvision/ssdlite320_mobilenet_v3_large", "--input", str(photos)]
    for name, message in (
        ("text.pth", "or not a weight file at all (12 bytes)"),
        ("cut.pkl", "or not a weight file at all (50 bytes)"),
        ("empty.pth", "or not a weight file at all (0 bytes)"),
        ("numbers.pth", "found the keys ['head']; expected a dict of tensors"),
        ("other.pth", "no weights of torchvision's ssdlite320_mobilenet_v3_large: "),
    ):
        opts = ["--output", str(tmp_path / "new"), "MODEL.WEIGHTS", str(tmp_path / name)]
        assert tool.main([*words, *opts]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"Error: {tmp_path / name}") and message in error


def test_a_network_of_the_zoo(photos, tmp_path, capsys):
    """As Detectron2's own predictor answers, with a smaller backbone."""
    name = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    small = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
    small += ["MODEL.ROI_BOX_HEAD.FC_DIM", "16", "INPUT.MIN_SIZE_TEST", "64"]
    small += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01", "MODEL.DEVICE", "cpu"]
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    cfg.merge_from_list(small)
    torch.manual_seed(0)
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    network = tool.zoo_network(name, ["MODEL.WEIGHTS", cfg.MODEL.WEIGHTS, *small])
    image = np.ascontiguousarray(np.asarray(Image.open(photos / "one.png"))[..., ::-1])
    expected, result = DefaultPredictor(cfg)(image)["instances"], network(image)
    assert len(result) == len(expected) > 0
    assert np.allclose(result.boxes, expected.pred_boxes.tensor.numpy(), atol=1e-3)
    assert np.allclose(result.scores, expected.scores.numpy(), atol=1e-5)
    assert (
        network.info.objects.class_names[0] == "person"
        and len(network.info.objects.category_ids) == 80
    )
    words = ["--config-file", name, "--input", str(photos), "--output", str(tmp_path / "out")]
    assert tool.main(words) == 2
    assert "MODEL.WEIGHTS: found ''" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "number", "category"),
    [
        ("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", 0, (1, "aerosol_can")),
        ("Cityscapes/mask_rcnn_R_50_FPN.yaml", 2, (3, "car")),
        ("PascalVOC-Detection/faster_rcnn_R_50_FPN.yaml", 11, (12, "dog")),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", 0, (1, "person")),
    ],
)
def test_a_network_of_the_zoo_whose_dataset_has_no_ids(photos, tmp_path, name, number, category):
    """The class that the network finds has its name in the file."""
    small = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
    small += ["MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8"]
    small += ["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)", "INPUT.MIN_SIZE_TEST", "64"]
    small += ["MODEL.DEVICE", "cpu"]
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    cfg.merge_from_list(small)
    torch.manual_seed(0)
    model = build_model(cfg)
    for key, value in model.state_dict().items():  # the same scores whatever the features are
        if "cls_score.weight" in key or "score_lowres.weight" in key:
            value.zero_()
    model.roi_heads.box_predictor.cls_score.bias.data[number] += 20
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    words = ["--config-file", name, "--input", photos, "MODEL.WEIGHTS", tmp_path / "weights.pth"]
    content = label(tmp_path / "out", *words, *small)
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert list(names) == list(range(1, cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1))
    found = {(a["category_id"], names[a["category_id"]]) for a in content["annotations"]}
    assert found == {category}


def test_no_config_of_the_zoo(tmp_path):
    for name in ("COCO-Detection/nothing.yaml", "COCO-Detection/fcos_R_50_FPN_1x.py"):
        with pytest.raises(ValueError, match=rf"--config-file: found {name}, expected a \.yaml"):
            tool.zoo_network(name, [])


def test_what_is_typed_wrong(photos, tmp_path, capsys):
    for words, message in (
        (["--input", "nothing_there"], "neither a file, a folder nor a registered dataset"),
        (["--input", str(photos), "--config-file", "x.yaml"], "expected --config-file FILE MODEL"),
        (["--input", str(photos), "--image-root", "x"], "found --image-root, which is for a COCO"),
    ):
        words = ["--model", str(small_network(tmp_path)), "--output", str(tmp_path / "o"), *words]
        assert tool.main(words) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "part", ["backbone.bottom_up", "heads.seg", "heads.center", "heads.det", "heads.pose"]
)
def test_weights_that_are_not_finite(photos, tmp_path, capsys, part):
    """Without the error objects of NaN would be none, and the images labelled as empty."""
    content = torch.load(weights := small_network(tmp_path), weights_only=False)
    key = next(k for k in content["model"] if k.startswith(part) and k.endswith("weight"))
    content["model"][key][:] = float("nan")
    torch.save(content, weights)
    words = ["--model", str(weights), "--input", str(photos), "--output", str(tmp_path / "new")]
    assert tool.main(words) == 2
    message = f"Error: {weights}: image {photos / 'one.png'}: found NaN or infinite numbers in a"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_predictions_that_are_not_finite():
    result = Result((2, 2), None, maps={"foreground": np.full((2, 2), np.nan)})
    with pytest.raises(ValueError, match="a.onnx: found NaN or infinite numbers in foreground"):
        tool.check_finite(result, "a.onnx")


def test_tasks_that_are_no_labels():
    args = tool.parse_args(["--input", "x", "--output", "y"])
    outputs = {"boundary": OutputInfo("boundary"), "boxes": OutputInfo("center")}
    info = SimpleNamespace(outputs=outputs, tasks=["boundary", "center"])
    with pytest.raises(
        ValueError, match=r"found a network of the tasks \['boundary', 'center'\], e"
    ):
        tool.check_tasks(info, args)
    outputs["sem_seg"] = OutputInfo("seg")
    info.tasks.append("seg")
    tool.check_tasks(info, args)
    assert args.tasks == ["seg"], "boxes of the centres alone are not asked for"


def test_the_page_about_teachers(photos, tmp_path, monkeypatch):
    """Its command writes what its config trains with; objects are those of the file."""
    page = (REPOSITORY / "docs" / "teachers.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, "MIN_SCORE", 0.0)
    (tmp_path / "output/demo").mkdir(parents=True)
    small_network(tmp_path / "output/demo")
    page = page[page.index("## Labels from a teacher") :]
    (command,) = re.findall(r"^python tools/label_with_teacher.py (.*)$", page, re.MULTILINE)
    assert tool.main(shlex.split(command)) == 0
    (yaml,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    # Objects of random weights score low.
    yaml = yaml.replace("# TEACHER_THRESHOLDS: {OBJECTS: 0.3", "TEACHER_THRESHOLDS: {OBJECTS: 0.05")
    Path("taught.yaml").write_text(yaml.replace("quick/", f"{REPOSITORY}/configs/quick/"))
    cfg = load_config("taught.yaml", ["DATASETS.TRAIN", "('photos_taught',)"])
    register_datasets(cfg.DATASETS.REGISTER)
    records = get_training_dicts(cfg)
    sure = [a for a in records[0]["annotations"] if not a["iscrowd"]]
    assert len(records) == 2 and all(a["confidence"] >= 0.05 for a in sure)
    entry = next(iter(build_train_loader(cfg)))[0]
    assert entry["sem_seg_confidence"].shape == entry["sem_seg"].shape == (160, 160)
    losses = build_model(cfg)([entry])
    assert all(loss.isfinite() for loss in losses.values())
