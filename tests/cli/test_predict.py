"""`d2mt predict` as a user runs it, on tiny images and a tiny network with random weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from d2_multitask.video import VideoReader, VideoWriter
from tool_support import load_command, run_command, small_network


@pytest.fixture(scope="module")
def tool():
    return load_command("predict")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The output folder of a training: config.yaml and model_final.pth, of random numbers."""
    folder = tmp_path_factory.mktemp("trained")
    small_network(folder)
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of images of many kinds, one of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    image = Image.fromarray(rgb)
    image.save(folder / "colour.png")
    image.convert("L").save(folder / "grey.jpg")
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 256).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by a quarter turn
    image.save(folder / "turned.jpg", exif=exif)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    (folder / "notes.txt").write_text("no image")
    return folder


def arguments(trained: Path, *more: object) -> list[str]:
    return ["--config-file", str(trained / "config.yaml"), *map(str, more)]


def test_a_folder_of_images_as_a_user_types_it(trained, photos, tmp_path):
    out, json_file = tmp_path / "out", tmp_path / "r.json"
    command = [
        *arguments(trained, "--output", out, "--json", json_file, "--contact-sheet"),
        *("--confidence-threshold", "0.05", "--tasks", "seg", "det", "pose"),
        *("--input", str(photos), "MODEL.WEIGHTS", str(trained / "model_final.pth")),
    ]
    done = run_command("predict", tmp_path, *command)
    assert done.returncode == 0, done.stderr
    names = {"alpha.png", "cmyk.jpg", "colour.png", "deep.png", "grey.jpg", "turned.jpg"}
    assert {p.name for p in out.iterdir()} == {*names, "contact_sheet.png", "finished.jsonl"}
    assert cv2.imread(str(out / "colour.png")).shape == (480, 640, 3)  # enlarged
    assert cv2.imread(str(out / "turned.jpg")).shape == (640, 480, 3)  # EXIF applied
    assert "broken.png" in done.stdout + done.stderr
    assert "1 inputs could not be read" in done.stdout
    check_json(json_file, names)


def check_json(json_file: Path, names: set[str]) -> None:
    images = json.loads(json_file.with_name("r_images.json").read_text())
    assert {Path(image["file_name"]).name for image in images} == names
    sizes = {Path(image["file_name"]).name: (image["width"], image["height"]) for image in images}
    assert sizes["turned.jpg"] == (48, 64)
    objects = json.loads(json_file.read_text())
    assert objects
    assert {entry["image_id"] for entry in objects} <= {image["id"] for image in images}
    assert all(len(entry["keypoints"]) == 51 for entry in objects)
    assert all(entry["category_id"] == 1 and entry["score"] >= 0.05 for entry in objects)
    sem_seg = json.loads(json_file.with_name("r_sem_seg.json").read_text())
    assert {entry["category_id"] for entry in sem_seg} == {1}


def test_the_model_is_enough(tool, trained, photos, tmp_path):
    out, json_file = tmp_path / "out", tmp_path / "r.json"
    inputs = ["--input", photos / "colour.png", "--output", out, "--json", json_file]
    options = ["--confidence-threshold", "0.05"]
    words = ["--model", trained / "model_final.pth", *inputs, *options]
    assert tool.main([str(word) for word in words]) == 0
    alone = (out / "colour.png").read_bytes(), json_file.read_text()
    assert tool.main(arguments(trained, *inputs, *options)) == 0
    assert ((out / "colour.png").read_bytes(), json_file.read_text()) == alone


def test_the_final_weights_of_the_output_folder_are_the_default(tool, trained, photos, tmp_path):
    out = tmp_path / "out"
    inputs = [photos / "colour.png", photos / "grey.jpg"]
    assert tool.main(arguments(trained, "--input", *inputs, "--output", out)) == 0
    assert {p.name for p in out.iterdir()} == {"colour.png", "grey.jpg", "finished.jsonl"}


def test_max_images_and_side_by_side(tool, trained, photos, tmp_path):
    out = tmp_path / "out"
    options = ["--max-images", 1, "--side-by-side", "--output", out]
    assert tool.main(arguments(trained, "--input", f"{photos}/*.png", *options)) == 0
    (path,) = out.glob("*.[!j]*")
    assert path.name == "alpha.png"
    assert cv2.imread(str(path)).shape[1] > 1280


def test_one_name_in_two_folders_gives_two_overlays(tool, trained, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), np.zeros((32, 32, 3), np.uint8))
    out = tmp_path / "out"
    inputs = [tmp_path / "one", tmp_path / "two"]
    assert tool.main(arguments(trained, "--input", *inputs, "--output", out)) == 0
    assert {p.name for p in out.iterdir()} == {"a.png", "2_a.png", "finished.jsonl"}


def test_names_that_are_taken(tool, trained, tmp_path):
    """The sheet's name, a name with a number, and the ids of a set whose ids are text."""
    inputs = [
        tmp_path / name for name in ("x/contact_sheet.png", "x/3_a.png", "x/a.png", "y/a.png")
    ]
    for path in inputs:
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.zeros((32, 32, 3), np.uint8))
    folder = tmp_path / "out"
    names = [path.name for path in tool.output_paths([inputs[2], inputs[1], inputs[3]], folder)]
    assert names == ["a.png", "3_a.png", "3_3_a.png"]
    arguments_ = arguments(trained, "--contact-sheet", "--output", folder, "--input", *inputs)
    assert tool.main(arguments_) == 0
    names = {"1_contact_sheet.png", "contact_sheet.png", "3_a.png", "a.png", "4_a.png"}
    names.add("finished.jsonl")
    assert {path.name for path in folder.iterdir()} == names


def test_the_sheet_does_not_overwrite_an_input(tool, trained, tmp_path, capsys):
    path = tmp_path / "contact_sheet.png"
    cv2.imwrite(str(path), np.zeros((32, 32, 3), np.uint8))
    options = ["--contact-sheet", "--output", tmp_path, "--input", path]
    assert tool.main(arguments(trained, *options)) == 2
    assert "would overwrite" in capsys.readouterr().err


def test_masks_of_names_that_are_taken(tool):
    targets = {name: Path(name) for name in ("a.jpg.png", "a.png", "a.jpg")}
    assert len(set(tool.mask_paths(targets, Path("masks")).values())) == 3


def test_two_videos_of_one_name(tool):
    paths = [Path("x/s.avi"), Path("y/s.mp4")]
    assert [p.name for p in tool.output_paths(paths, Path("out"))] == ["s.mp4", "2_s.mp4"]


def test_a_link_in_the_output_folder_is_replaced(tool, trained, tmp_path):
    """Also a long thin image, whose height rounds to 0 at the network's size."""
    out, precious = tmp_path / "out", tmp_path / "precious.txt"
    precious.write_text("precious")
    out.mkdir()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 3000, 3), np.uint8))
    for name in ("a.png", "contact_sheet.png", "r.json", "r_images.json"):
        (out / name).symlink_to(precious)
    options = ["--json", out / "r.json", "--contact-sheet", "--output", out]
    assert tool.main(arguments(trained, "--input", tmp_path / "a.png", *options)) == 0
    assert precious.read_text() == "precious"
    assert not any(path.is_symlink() for path in out.iterdir())


def test_text_ids_of_the_data_set(tool, trained, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    monkeypatch.setattr(tool, "known_image_ids", lambda metadata: {"a.png": "first"})
    options = ["--json", tmp_path / "r.json", "--output", tmp_path / "out"]
    assert tool.main(arguments(trained, "--input", tmp_path / "a.png", *options)) == 0
    assert json.loads((tmp_path / "r_images.json").read_text())[0]["id"] == "first"


def test_a_video_becomes_a_video(tool, trained, tmp_path, capsys):
    writer = VideoWriter(tmp_path / "street.avi", 12)
    for value in range(6):
        writer.write(np.full((48, 64, 3), 30 * value, np.uint8))
    writer.close()
    options = [
        "--max-images",
        4,
        "--batch-size",
        3,
        "--tasks",
        "det",
        "--json",
        tmp_path / "r.json",
    ]
    out = tmp_path / "out"
    inputs = ["--input", tmp_path / "street.avi"]
    assert tool.main(arguments(trained, *inputs, "--output", out, *options)) == 0
    reader = VideoReader(out / "street.mp4")
    assert reader.fps == pytest.approx(12)
    assert [frame.image.shape for frame in reader] == [(480, 640, 3)] * 4
    images = json.loads((tmp_path / "r_images.json").read_text())
    assert [image["file_name"] for image in images] == [f"street.avi#{i}" for i in range(4)]
    assert not (tmp_path / "r_sem_seg.json").exists()  # not asked for
    assert "4/4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        pytest.param(["--input", "absent.png"], 2, "no such file", id="absent"),
        pytest.param(["--input", "empty"], 2, "no image and no video", id="empty-folder"),
        pytest.param(["--input", "broken.png"], 1, "Nothing could be read", id="only-broken"),
        pytest.param(["--input", "broken.mp4"], 2, "cannot be opened", id="broken-video"),
        pytest.param(
            ["--input", "ok.png", "--tasks", "depth"], 2, "expected some of: .*seg", id="task"
        ),
        pytest.param(
            ["--input", "ok.png", "MODEL.WEIGHTZ", "x"], 2, "did you mean MODEL.WEIGHTS", id="key"
        ),
        pytest.param(
            ["--input", "ok.png", "MODEL.WEIGHTS", "x.pth"], 2, "is not a file", id="weights"
        ),
        pytest.param(["--input", "ok.png", "--output", "."], 2, "would overwrite", id="overwrite"),
        pytest.param(["--input", "ok.png", "--max-images", "0"], 2, "expected >= 1", id="zero"),
        pytest.param([], 2, "nothing to read", id="no-input"),
        pytest.param(
            ["--input", "ok.png", "--model", "a.pth", "MODEL.WEIGHTS", "b.pth"],
            2,
            "expected one of the two",
            id="two-models",
        ),
        pytest.param(
            ["--input", "ok.png", "--model", "broken.mp4"], 2, "cannot be read", id="no-model"
        ),
    ],
)
def test_what_a_mistake_gets(
    tool, trained, tmp_path, monkeypatch, capsys, caplog, options, code, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    cv2.imwrite("ok.png", np.zeros((32, 32, 3), np.uint8))
    try:
        found = tool.main(arguments(trained, *options))
    except SystemExit as exit_:  # argparse ends the process itself
        found = exit_.code
    assert found == code
    printed = capsys.readouterr()
    assert re.search(message, printed.err + printed.out + caplog.text)


def test_the_best_score_is_said_when_nothing_is_drawn(tool, trained, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "ok.png"), np.zeros((32, 32, 3), np.uint8))
    words = ["--input", tmp_path / "ok.png", "--output", tmp_path / "out"]
    assert tool.main(arguments(trained, *words, "--confidence-threshold", "1")) == 0
    assert re.search(
        r"No object reached --confidence-threshold 1: the best score was 0\.\d{3}\.",
        capsys.readouterr().out,
    )


def test_a_model_config_without_trained_weights_says_what_to_type(tool, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "ok.png"), np.zeros((32, 32, 3), np.uint8))
    options = ["--config-file", "quick/mcn_det.yaml", "--input", str(tmp_path / "ok.png")]
    assert tool.main([*options, "OUTPUT_DIR", str(tmp_path / "none")]) == 2
    assert "add `MODEL.WEIGHTS path/to/model_final.pth`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "options", "overrides"),
    [
        pytest.param(
            ["--input", "a.jpg", "b.jpg", "MODEL.WEIGHTS", "x.pth"],
            ["--input", "a.jpg", "b.jpg"],
            ["MODEL.WEIGHTS", "x.pth"],
            id="after-many-inputs",
        ),
        pytest.param(
            ["--tasks", "seg", "SEED", "3"], ["--tasks", "seg"], ["SEED", "3"], id="key-without-dot"
        ),
        pytest.param(
            ["--input", "SEEDS.JPG"], ["--input", "SEEDS.JPG"], [], id="a-file-in-capitals"
        ),
        pytest.param(
            ["--input", "a", "--opts", "SEED", "3"],
            ["--input", "a", "--opts", "SEED", "3"],
            [],
            id="left-to-argparse-after-opts",
        ),
    ],
)
def test_overrides_are_found_behind_the_options(tool, words, options, overrides):
    assert tool.split_overrides(words) == (options, overrides)


def test_opts_and_plain_overrides_mean_the_same(tool):
    common = ["--config-file", "c.yaml", "--input", "a"]
    for words in ([*common, "--opts", "SEED", "3"], [*common, "SEED", "3"]):
        assert tool.parse_args(words).opts == ["SEED", "3"]


@pytest.mark.parametrize(
    ("words", "camera"),
    [
        pytest.param(["--webcam"], 0, id="default"),
        pytest.param(["--webcam", "2"], 2, id="number"),
        pytest.param(["--input", "webcam"], 0, id="as-input"),
        pytest.param(["--input", "a.png"], None, id="none"),
    ],
)
def test_the_camera_is_asked_for(tool, words, camera):
    assert tool.parse_args(["--config-file", "c.yaml", *words]).webcam == camera
