"""Videos there and back, and whole or not there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from d2_multitask.video import VideoReader, VideoWriter
from d2_multitask.video.reader import DEFAULT_FPS
from support import REPOSITORY


def frames(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [np.full((height, width, 3), 40 * index, np.uint8) for index in range(count)]


def test_a_video_comes_back(tmp_path):
    writer = VideoWriter(tmp_path / "v.mp4", fps=10)
    for frame in frames(5):
        writer.write(frame)
    writer.close()
    reader = VideoReader(tmp_path / "v.mp4")
    assert reader.fps == pytest.approx(10)
    assert reader.num_frames == 5
    read = [frame.image for frame in reader]
    assert [frame.shape for frame in read] == [(48, 64, 3)] * 5
    assert [round(frame.mean() / 40) for frame in read] == [0, 1, 2, 3, 4]


def test_odd_sides_and_another_size_are_written(tmp_path):
    writer = VideoWriter(tmp_path / "v.mp4", DEFAULT_FPS)
    writer.write(frames(1, 49, 65)[0])
    writer.write(frames(1, 100, 30)[0])
    writer.close()
    assert [frame.image.shape for frame in VideoReader(tmp_path / "v.mp4")] == [(48, 64, 3)] * 2


def test_without_frames_there_is_no_file(tmp_path):
    VideoWriter(tmp_path / "v.mp4", 10).close()
    assert not (tmp_path / "v.mp4").exists()


def test_a_broken_video_is_an_error_that_names_it(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"broken\.mp4: cannot be opened"):
        VideoReader(tmp_path / "broken.mp4")


def test_a_video_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"v\.mp4: OpenCV cannot write"):
        VideoWriter(tmp_path / "absent" / "v.mp4", 10).write(frames(1)[0])


def test_a_link_in_the_place_of_a_video_is_replaced(tmp_path):
    precious, link = tmp_path / "precious.txt", tmp_path / "a.mp4"
    precious.write_text("precious")
    link.symlink_to(precious)
    writer = VideoWriter(link, 5)
    writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.close()
    assert precious.read_text() == "precious" and not link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "precious.txt"]


def test_frames_that_were_dropped_are_filled(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", 10) as writer:
        for frame, number in zip(frames(3), (0, 3, 4), strict=True):
            writer.write(frame, number)
    read = [frame.image for frame in VideoReader(tmp_path / "v.mp4")]
    assert [round(frame.mean() / 40) for frame in read] == [0, 1, 1, 1, 2]


def test_after_an_error_there_is_no_file(tmp_path):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "v.mp4", 10) as writer:
        writer.write(frames(1)[0])
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_sentence_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with (
        pytest.raises(ValueError, match=r"v\.mp4: the video could not be written \(0 MB are free"),
        VideoWriter(tmp_path / "v.mp4", 10) as writer,
    ):
        writer.write(frames(1)[0])
    assert not list(tmp_path.iterdir())


FULL = """
import resource
from pathlib import Path
import numpy as np
from d2_multitask.video import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
rng = np.random.default_rng(0)
try:
    with VideoWriter(Path("v.mp4"), 10) as writer:
        for _ in range(30):
            writer.write(rng.integers(0, 255, (96, 128, 3), np.uint8))
except ValueError as error:
    print(error)
"""


def test_writing_that_fails_without_a_word_is_found_out(tmp_path):
    """OpenCV does not say that a write failed, here at a limit of the file's size."""
    environment = {**os.environ, "D2_MULTITASK_RUNTIME_ONLY": "1"}
    environment["PYTHONPATH"] = f"{REPOSITORY}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-c", FULL], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "v.mp4: the video could not be written" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())
