"""Videos through `d2mt track`: picture, JSON, console, scores, and what bad input gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from d2_multitask.cli import track
from d2_multitask.video import StreamLostError, VideoReader, VideoWriter
from runtime_support import write_model
from support import REPOSITORY


@pytest.fixture
def model(tmp_path):
    """Finds a person (0.9) and a dog (0.6) in every frame."""
    return write_model(tmp_path / "tiny.onnx")


def write_video(path, count: int = 6) -> None:
    with VideoWriter(path, 12) as writer:
        for index in range(count):
            writer.write(np.full((32, 64, 3), 30 * index, np.uint8))


def run(model, source, *words) -> int:
    output = model.parent / "out"
    return track.main(
        ["--model", str(model), "--input", str(source), "--output", str(output), *map(str, words)]
    )


def test_a_video_becomes_a_video_and_json(model, tmp_path, capsys):
    write_video(tmp_path / "street.mp4")
    words = ["--json", tmp_path / "r.json", "--show-speed"]
    assert run(model, tmp_path / "street.mp4", *words) == 0
    reader = VideoReader(tmp_path / "out" / "street.mp4")
    assert reader.fps == pytest.approx(12)
    assert [frame.image.shape[1] for frame in reader] == [640] * 6  # enlarged
    results = json.loads((tmp_path / "r.json").read_text())
    assert [r["image_id"] for r in results] == [i for i in range(6) for _ in range(2)]
    assert {(r["category_id"], r["track_id"]) for r in results} == {(1, 1), (18, 2)}
    printed = capsys.readouterr().out
    assert "6 frames, 2 identities" in printed and "frames a second; a frame: read" in printed
    for stage in ("network", "track", "draw", "write"):
        assert f"{stage} " in printed.splitlines()[1]


def test_when_nothing_reaches_the_threshold_the_best_score_is_said(model, tmp_path, capsys):
    write_video(tmp_path / "a.mp4", 2)
    assert run(model, tmp_path / "a.mp4", "--confidence-threshold", 0.95) == 0
    assert (
        "No object reached --confidence-threshold 0.95: the best score was 0.900, in frame "
        in capsys.readouterr().out
    )


def test_one_frame_numbered_images_and_a_limit(model, tmp_path, capsys):
    write_video(tmp_path / "one.mp4", 1)
    assert run(model, tmp_path / "one.mp4") == 0
    (tmp_path / "frames").mkdir()
    for index in range(5):
        cv2.imwrite(str(tmp_path / "frames" / f"{index:03d}.png"), np.zeros((32, 64, 3), np.uint8))
    assert run(model, tmp_path / "frames" / "%03d.png", "--max-frames", 3, "--tasks", "det") == 0
    assert len(list(VideoReader(tmp_path / "out" / "frames.mp4"))) == 3
    assert "Warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--input", "absent.mp4"], "absent.mp4: no such file", id="absent"),
        pytest.param(["--input", "broken.mp4"], "broken.mp4: cannot be opened", id="broken"),
        pytest.param(["--input", "."], "found a folder, expected a video", id="folder"),
        pytest.param(["--input", "ok.mp4", "--output", "."], "would overwrite", id="overwrite"),
        pytest.param(
            ["--input", "ok.mp4", "--confidence-threshold", "1"], "between 0 and 1", id="threshold"
        ),
        pytest.param(["--input", "ok.mp4", "--tasks", "seg"], "without objects", id="no-objects"),
        pytest.param(["--input", "ok.mp4", "--model", "ok.mp4"], "ok.mp4", id="no-model"),
        pytest.param(["--input", ".", "--evaluate", "ok.mp4"], "expected COCO's format", id="json"),
    ],
)
def test_what_a_mistake_gets(model, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    write_video(tmp_path / "ok.mp4", 2)
    before = {path.name for path in tmp_path.iterdir()}
    assert track.main(["--model", str(model), *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: ") and message in error
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == before  # nothing half-written


def test_options_that_do_not_go_together(model, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(model, tmp_path, "--evaluate", "a.json", "--show-speed")
    assert "--evaluate only prints scores" in capsys.readouterr().err


def test_a_lost_stream_keeps_what_was_seen(model, tmp_path, monkeypatch, capsys):
    write_video(tmp_path / "a.mp4", 4)

    class Breaking(VideoReader):
        def __iter__(self):
            yield from super().__iter__()
            raise StreamLostError("rtsp://a: the stream broke after 4 frames")

    monkeypatch.setattr(track, "VideoReader", Breaking)
    assert run(model, tmp_path / "a.mp4", "--json", tmp_path / "r.json") == 1
    assert capsys.readouterr().err == "Error: rtsp://a: the stream broke after 4 frames\n"
    assert len(list(VideoReader(tmp_path / "out" / "a.mp4"))) == 4
    assert len(json.loads((tmp_path / "r.json").read_text())) == 8


def test_an_interrupt_is_the_end_of_a_camera(model, tmp_path, monkeypatch, capsys):
    write_video(tmp_path / "a.mp4", 4)
    draw = track.draw
    calls = iter(range(10))

    def interrupt(*args, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return draw(*args, **options)

    monkeypatch.setattr(track, "draw", interrupt)
    assert run(model, tmp_path / "a.mp4") == 0
    assert "Stopped." in capsys.readouterr().out
    assert len(list(VideoReader(tmp_path / "out" / "a.mp4"))) == 2


@pytest.mark.parametrize(
    ("given", "source", "name"),
    [
        ("webcam", 0, "webcam_0"),
        ("2", 2, "webcam_2"),
        ("rtsp://u:p@host/live.sdp?x=1", "rtsp://u:p@host/live.sdp?x=1", "live"),
        ("http://host:80/", "http://host:80/", "host:80"),
        ("a/b/%06d.png", "a/b/%06d.png", "b"),
    ],
)
def test_sources(given, source, name):
    assert track.source_of(given) == (source, name)


def test_scores_of_labelled_videos(model, tmp_path, capsys):
    pytest.importorskip("trackeval")
    # The network's two boxes, (2, 4, 10, 20) and (8, 8, 40, 24) in 64 x 32, are the truth.
    images, annotations = [], []
    for frame in range(4):
        name = f"{frame}.png"
        cv2.imwrite(str(tmp_path / name), np.zeros((32, 64, 3), np.uint8))
        images.append({"id": frame + 1, "file_name": name, "video_id": 1, "frame_id": frame})
        for track_id, box in ((1, [2, 4, 8, 16]), (2, [8, 8, 32, 16])):
            annotations.append({"image_id": frame + 1, "bbox": box, "track_id": track_id})
    content = {"videos": [{"id": 1}], "images": images, "annotations": annotations}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert run(model, tmp_path, "--evaluate", tmp_path / "a.json") == 0
    rows = {line[:16].strip(): line[16:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows[""] == ["HOTA", "DetA", "AssA", "MOTA", "IDF1", "IDSW", "FP", "FN"]
    for name in ("tracked", "true identities"):
        assert rows[name] == ["100.0"] * 5 + ["0", "0", "0"]


HIDDEN = """
import sys
for name in {names}:
    sys.modules[name] = None
from d2_multitask.cli.main import main
sys.exit(main(["track", "--model", "tiny.onnx", "--input", "a.mp4"]))
"""


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        pytest.param((), 0, "2 frames, 2 identities", id="without-torch"),
        pytest.param(("cv2",), 2, "d2mt track needs OpenCV and SciPy", id="without-opencv"),
    ],
)
def test_what_is_needed(model, tmp_path, extra, code, message):
    write_video(tmp_path / "a.mp4", 2)
    names = ("torch", "torchvision", "detectron2", "matplotlib", "pycocotools", "trackeval", *extra)
    paths = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN.format(names=names)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
