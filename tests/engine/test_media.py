"""Finding files in what a user typed, and videos there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from d2_multitask.engine.media import DEFAULT_FPS, VideoReader, VideoWriter, find_media


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("in/b.JPG", "in/a.png", "in/clip.mp4", "in/notes.txt", "in/deep/c.png", "odd.xyz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "images", "videos"),
    [
        pytest.param(["in"], ["in/a.png", "in/b.JPG"], ["in/clip.mp4"], id="folder"),
        pytest.param(["in/b.JPG", "in/a.png"], ["in/b.JPG", "in/a.png"], [], id="order-given"),
        pytest.param(["in/*.png"], ["in/a.png"], [], id="pattern"),
        pytest.param(["in/**/*.png"], ["in/a.png", "in/deep/c.png"], [], id="deep-pattern"),
        pytest.param(["in/a.png", "in"], ["in/a.png", "in/b.JPG"], ["in/clip.mp4"], id="once"),
        pytest.param(["odd.xyz"], ["odd.xyz"], [], id="named-with-unknown-ending"),
    ],
)
def test_find_media(folder, inputs, images, videos):
    assert find_media(inputs) == ([Path(p) for p in images], [Path(p) for p in videos])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param("empty", "holds no image and no video", id="empty-folder"),
        pytest.param("in/*.tiff", "matches no image", id="pattern"),
        pytest.param("absent.png", "no such file or folder", id="absent"),
    ],
)
def test_nothing_found_is_an_error_that_names_the_input(folder, given, message):
    with pytest.raises(ValueError, match=message) as error:
        find_media([given])
    assert given in str(error.value)


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
    read = list(reader)
    assert [frame.shape for frame in read] == [(48, 64, 3)] * 5
    assert [round(frame.mean() / 40) for frame in read] == [0, 1, 2, 3, 4]


def test_odd_sides_and_another_size_are_written(tmp_path):
    writer = VideoWriter(tmp_path / "v.mp4", DEFAULT_FPS)
    writer.write(frames(1, 49, 65)[0])
    writer.write(frames(1, 100, 30)[0])
    writer.close()
    assert [frame.shape for frame in VideoReader(tmp_path / "v.mp4")] == [(48, 64, 3)] * 2


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
