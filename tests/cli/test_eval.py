"""`d2mt eval`: weights with their config inside, and exported files, by the same evaluators."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2_multitask.runtime import Predictor
from engine_support import write_people
from runtime_support import write_model
from tool_support import load_command, small_network


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    return load_command("eval")


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def registered(name: str, json_file: Path) -> list[str]:
    """Options that make a COCO file the only dataset."""
    entry = {"NAME": name, "JSON": str(json_file), "IMAGE_ROOT": str(json_file.parent)}
    return [
        *("DATASETS.REGISTER", str([entry]), "DATASETS.TRAIN", f"('{name}',)"),
        *("DATASETS.TEST", f"('{name}',)", "DATALOADER.NUM_WORKERS", "0"),
    ]


def test_weights_are_enough(command, tmp_path: Path) -> None:
    path = small_network(tmp_path)
    options = registered("eval_people", write_people(tmp_path / "people"))
    assert command.main(["--model", str(path), *options]) == 0
    found = results(tmp_path / "output" / "eval")
    assert set(found) == {"bbox", "keypoints", "sem_seg"}
    config = ["--eval-only", "--config-file", str(tmp_path / "config.yaml")]
    weights = ["MODEL.WEIGHTS", str(path), "OUTPUT_DIR", "again"]
    assert load_command("train").main([*config, *options, *weights]) == 0
    assert results(tmp_path / "again") == found


def write_labels_of_the_exported_network(folder: Path) -> Path:
    """An image on which the network of `write_model` is right: both objects, a bright half."""
    folder.mkdir()
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    Image.fromarray(pixels).save(folder / "a.png")
    boxes = {1: [2, 4, 8, 16], 18: [8, 8, 32, 16]}
    annotations = [
        {"id": i, "image_id": 1, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for i, (c, b) in enumerate(boxes.items(), 1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 32}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    return folder / "labels.json"


def test_an_exported_file(command, tmp_path: Path) -> None:
    """AP 100: the file's boxes are the labels, to the pixel."""
    model = write_model(tmp_path / "a.onnx")
    options = registered("eval_exact", write_labels_of_the_exported_network(tmp_path / "data"))
    words = ["--model", str(model), "--config-file", "quick/mcn_seg_det_pose.yaml", *options]
    keypoints = ["MODEL.POSE_HEAD.NUM_KEYPOINTS", "2", "TEST.KEYPOINT_OKS_SIGMAS", "[0.1, 0.1]"]
    network = [*keypoints, "MODEL.CENTER_HEAD.NUM_CLASSES", "2"]
    assert command.main([*words, *network]) == 0
    found = results(tmp_path / "output" / "eval")
    assert found["bbox"]["AP"] == pytest.approx(100)
    # The same file, said to be of another network.
    with pytest.raises(SystemExit, match="found 2 classes, expected 3"):
        command.main([*words, *keypoints, "MODEL.CENTER_HEAD.NUM_CLASSES", "3"])


def test_instance_masks_of_an_exported_file(command, tmp_path: Path) -> None:
    write_labels_of_the_exported_network(tmp_path / "data")
    maps = {"sem_seg": {"class_names": ["person", "dog"], "category_ids": [0, 1]}}
    predictor = Predictor(write_model(tmp_path / "a.onnx", maps=maps))
    batch = [{"file_name": str(tmp_path / "data" / "a.png")}]
    for masks in (False, True):
        (result,) = command.answer_of(predictor, masks)(batch)
        assert result["instances"].has("pred_masks") == masks
    assert result["instances"].pred_masks.shape == (2, 32, 64)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param([], "required: --model", id="no-model"),
        pytest.param(["--model", "a.onnx"], "add --config-file FILE", id="no-config"),
        pytest.param(["--model", "absent.pth"], "absent.pth", id="absent"),
        pytest.param(["--model", "old.pth"], "has no config inside", id="old"),
        pytest.param(["--model", "text.pth"], "text.pth cannot be read", id="no-checkpoint"),
        pytest.param(
            [
                "--model",
                "a.onnx",
                "--config-file",
                "quick/mcn_seg_det.yaml",
                "TEST.PANOPTIC",
                "True",
            ],
            "add TEST.PANOPTIC False",
            id="panoptic",
        ),
        pytest.param(
            ["--model", "text.onnx", "--config-file", "quick/mcn_det.yaml"],
            "found no network",
            id="no-network",
        ),
    ],
)
def test_mistakes_are_one_sentence(command, tmp_path: Path, capsys, words, message) -> None:
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "old.pth")
    for name in ("text.pth", "text.onnx"):
        (tmp_path / name).write_text("no network")
    with pytest.raises(SystemExit) as end:
        command.main(words)
    assert message in f"{end.value.code}{capsys.readouterr().err}"
