"""`d2mt export` as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from d2_multitask.cli.export import main
from d2_multitask.config import load_config
from d2_multitask.runtime import Predictor
from export_support import blobs
from fusion_support import randomise_norms

CONFIG = "quick/mcn_seg.yaml"
SMALL = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "4", "MODEL.RESNETS.RES2_OUT_CHANNELS", "4"),
    *("MODEL.FPN.OUT_CHANNELS", "8", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "8"),
    *("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96"),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model_final.pth"
    torch.manual_seed(0)
    model = randomise_norms(build_model(load_config(CONFIG, SMALL)))
    torch.save({"model": model.state_dict()}, path)
    return path


def test_a_file_is_written_compared_and_complete(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(blobs(70, 90)).save(photos / "a.png")
    Image.fromarray(blobs(50, 40, seed=1)).save(photos / "b.jpg")
    output = tmp_path / "deploy" / "model.onnx"
    words = ["--config-file", CONFIG, "--output", str(output), "--images", str(photos)]
    assert main([*words, *SMALL, "MODEL.WEIGHTS", str(weights)]) == 0
    printed = capsys.readouterr().out
    assert "Compared with the network: 2 images, 0 objects; sem_seg " in printed
    assert [path.name for path in output.parent.iterdir()] == ["model.onnx"]
    assert Predictor(output)(blobs(70, 90)).sem_seg.shape == (70, 90)


def test_a_file_that_differs_is_not_written(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("d2_multitask.export.compare.MOST_MAP", -1.0)
    output = tmp_path / "model.onnx"
    words = ["--config-file", CONFIG, "--output", str(output)]
    assert main([*words, *SMALL, "MODEL.WEIGHTS", str(weights)]) == 1
    assert "model.onnx: not written, because its answers are more than" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--output", "m.tflite"], "found '.tflite', expected one of .onnx, .xml, .pt2, .ts"),
        (["--output", "m.onnx", "TEST.SCALES", "[0.5]"], "a file runs on one size"),
        (["--output", "m.onnx", "--images", "nowhere"], "nowhere: no such file or folder"),
        (["--output", "videos"], "videos: found '', expected one of"),
        (["--output", "folder.onnx"], "folder.onnx: found a folder, expected a file"),
        (["--output", "m.onnx", "--images", "videos"], "--images videos: found videos only"),
        (["--output", "m.onnx", "--images", "broken"], "--images broken: none can be read"),
        (
            ["--output", "m.onnx", "--int8", "--calibrate", "absent"],
            "--calibrate absent: no such file",
        ),
        (["--output", "m.onnx", "--tasks", "det"], "TEST.TASKS: found 'det', expected some of"),
    ],
)
def test_mistakes_are_one_sentence(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("videos/a.mp4", "broken/a.png"):
        Path(name).parent.mkdir()
        Path(name).touch()
    Path("folder.onnx").mkdir()
    options = [*SMALL, "MODEL.WEIGHTS", str(weights)]
    place = next((i for i, word in enumerate(words) if word.startswith("TEST.")), len(words))
    line = [*words[:place], "--config-file", CONFIG, *words[place:], *options]
    assert main(line) == 2
    # The last line: in one process, loggers of earlier tests complain about closed streams.
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: ") and sentence in error
    assert {path.name for path in tmp_path.iterdir()} == {"videos", "broken", "folder.onnx"}


def test_options_that_belong_together(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--int8"], ["--calibrate", "photos"]):
        with pytest.raises(SystemExit):
            main(["--config-file", CONFIG, "--output", "m.onnx", *words])
        assert "--int8 and --calibrate FOLDER belong together" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--output", "m.onnx"])
    assert "nothing to export" in capsys.readouterr().err
