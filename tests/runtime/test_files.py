"""Finding files in what a user typed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2_multitask.runtime.files import find_media, read_image


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param(np.full((4, 5), 0.5, np.float32), "floating-point pixels", id="float"),
        pytest.param(np.full((4, 5), -1, np.int32), "pixels -1 to -1, expected", id="negative"),
        pytest.param(np.full((4, 5), 70000, np.int32), "expected 0 to 65535", id="32-bit"),
    ],
)
def test_pixels_without_a_known_range_are_refused(tmp_path, values, message):
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(ValueError, match=message) as error:
        read_image(path)
    assert str(path) in str(error.value)


def test_of_16_bits_the_high_byte_is_taken(tmp_path):
    path = tmp_path / "a.tif"
    for kind in (np.uint16, np.int32):
        Image.fromarray(np.full((4, 5), 3 * 256 + 7, kind)).save(path)
        np.testing.assert_array_equal(read_image(path), np.full((4, 5, 3), 3))
