"""`d2mt predict` with an exported network, as a user runs it where PyTorch is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2_multitask.cli import predict_exported
from d2_multitask.cli.main import EXPORTED_PREDICTION, module_of
from d2_multitask.runtime import Predictor, Result
from runtime_support import write_model
from support import REPOSITORY
from tool_support import run_tool

# `import` of a name that is None in sys.modules fails as if it was not installed.
BARE = """
import runpy, sys
for name in ("torch", "torchvision", "detectron2", "cv2", "scipy", "pycocotools", "timm",
             "matplotlib", "yaml", "tqdm", "networkx", "safetensors", "tabulate", "onnx"):
    sys.modules[name] = None
runpy.run_module("d2mt", run_name="__main__")
"""


def d2mt(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", BARE, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network, two images and a broken one."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.onnx")
    (tmp_path / "photos").mkdir()
    pixels = np.full((32, 64, 3), 255, np.uint8)
    pixels[:, :32] = 0
    Image.fromarray(pixels).save("photos/7.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown rotated by a quarter turn
    Image.fromarray(pixels).save("photos/8.jpg", exif=turned)
    Path("photos/9.png").write_text("no image")
    return tmp_path


def test_without_pytorch(work: Path) -> None:
    done = d2mt(work, "predict", "--model", "model.onnx", "--input", "photos", "--json", "r.json")
    assert done.returncode == 0, done.stderr
    assert "left out: photos/9.png: cannot be read" in done.stdout
    assert done.stdout.splitlines()[1].startswith("2 images, 4 objects, ")
    output = work / "output" / "predictions"
    sizes = {path.name: Image.open(path).size for path in output.iterdir()}
    assert sizes == {"7.png": (640, 320), "8.jpg": (320, 640)}  # enlarged, turned
    images = json.loads((work / "r_images.json").read_text())
    assert [(entry["id"], entry["width"], entry["height"]) for entry in images] == [
        (7, 64, 32),
        (8, 32, 64),
    ]
    objects = [o for o in json.loads((work / "r.json").read_text()) if o["image_id"] == 7]
    assert [o["bbox"] for o in objects] == [[2, 4, 8, 16], [8, 8, 32, 16]]
    assert [o["category_id"] for o in objects] == [1, 18]
    (bright, _) = json.loads((work / "r_sem_seg.json").read_text())
    assert bright["image_id"] == 7 and bright["category_id"] == 1


def test_help_and_weights_without_pytorch(work: Path) -> None:
    assert "predict " in d2mt(work, "--help").stdout
    assert ".onnx or .xml" in d2mt(work, "predict", "--help").stdout
    done = d2mt(work, "predict", "--model", "model.pth", "--input", "photos")
    assert done.returncode == 2 and done.stderr.startswith("Error: d2_multitask cannot start. ")
    assert "PyTorch is not installed." in done.stderr and "Traceback" not in done.stderr


def test_the_same_command_chooses_by_the_model() -> None:
    assert module_of("predict", ["--model", "a.ONNX"]) == EXPORTED_PREDICTION
    assert module_of("predict", ["--model", "a.pth"]) == "d2_multitask.cli.predict"


def test_the_tool_of_a_clone_takes_exported_networks_too(work: Path) -> None:
    done = run_tool("predict.py", work, "--model", "model.onnx", "--input", "photos/7.png")
    assert done.returncode == 0, done.stderr
    assert (work / "output/predictions/7.png").is_file()


def test_masks(work: Path) -> None:
    names = {"sem_seg": {"class_names": ["person", "dog"], "category_ids": [0, 1]}}
    write_model(work / "masks.onnx", maps=names)
    done = d2mt(
        work, "predict", "--model", "masks.onnx", "--input", "photos", "--masks", "--json", "r.json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((work / "r.json").read_text())
    assert [entry["segmentation"]["size"] for entry in found] == [[32, 64]] * 2 + [[64, 32]] * 2


@pytest.mark.parametrize(("threshold", "expected"), [("0.3", [0, 255, 255]), ("0", [51, 102, 255])])
def test_masks_of_the_foreground_and_their_greys(work: Path, threshold, expected) -> None:
    words = ["--model", "model.onnx", "--input", "photos/7.png", "--mask-threshold", threshold]
    paths = [Path("photos/7.png")]
    outputs = predict_exported.Outputs(predict_exported.parse_args(words), paths)
    values = np.array([[0.2, 0.4, 1.0]], np.float32)
    result = Result((1, 3), Predictor("model.onnx").info, maps={"foreground": values})
    outputs.add(paths[0], np.zeros((1, 3, 3), np.uint8), result)
    mask = np.asarray(Image.open("output/predictions/masks/7.png"))
    assert mask.tolist() == [expected]


def test_the_best_score_when_nothing_reaches_the_threshold(work: Path, capsys) -> None:
    words = ["--model", "model.onnx", "--input", "photos/7.png", "--confidence-threshold", "0.95"]
    assert predict_exported.main(words) == 0
    assert "the best score was 0.900." in capsys.readouterr().out


def test_a_contact_sheet(work: Path) -> None:
    words = ["--model", "model.onnx", "--input", "photos", "--contact-sheet", "--max-images", "1"]
    assert predict_exported.main([*words, "--output", "out"]) == 0
    assert {path.name for path in Path("out").iterdir()} == {"7.png", "contact_sheet.png"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param(["--model", "no.onnx"], 2, "no.onnx: found no such file", id="no-model"),
        pytest.param(["--model", "photos/9.png"], 2, "found no network", id="no-network"),
        pytest.param(["--model", "other.onnx"], 2, "found no metadata", id="of-others"),
        pytest.param(["--input", "absent"], 2, "no such file or folder", id="no-input"),
        pytest.param(["--input", "photos/9.png"], 1, "nothing could be read", id="broken"),
        pytest.param(["--output", "photos"], 2, "would overwrite the input", id="overwrite"),
        pytest.param(["--tasks", "depth"], 2, "expected some of this network's", id="task"),
        pytest.param(["--input", "a.mp4"], 2, "type d2mt track", id="video"),
    ],
)
def test_mistakes_are_one_sentence(work: Path, capsys, words, code, message) -> None:
    write_model(work / "other.onnx", text="")
    Path("a.mp4").write_text("")
    assert predict_exported.main(["--model", "model.onnx", "--input", "photos", *words]) == code
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err


@pytest.mark.parametrize("threshold", ["7", "-0.1", "nan"])
def test_thresholds_are_from_0_to_1(threshold: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "model.onnx", "--input", "a.png", "--confidence-threshold", threshold]
    with pytest.raises(SystemExit):
        predict_exported.main(words)
    assert f"--confidence-threshold: found {threshold}, expected 0 to 1" in capsys.readouterr().err
