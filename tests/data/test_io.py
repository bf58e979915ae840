from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import detection_utils
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from d2_multitask.data.io import (
    DARK_16_BIT,
    EXIF_LEFT_OUT,
    ImageReadError,
    image_size,
    read_image,
    read_label_map,
)
from d2_multitask.data.problems import DATA_REPORT

_ORIENTATION = 0x0112
_TURN_RIGHT = 6


def _save(path, array, mode=None, **kwargs):
    image = Image.fromarray(array)
    image = image.convert(mode) if mode else image
    image.save(path, **kwargs)
    return str(path)


def _colors():
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L"])
def test_reads_like_detectron2(tmp_path, image_format):
    path = _save(tmp_path / "a.png", _colors())
    expected = detection_utils.read_image(path, image_format)
    np.testing.assert_array_equal(read_image(path, image_format), expected)


def test_gray_is_repeated(tmp_path):
    gray = _colors()[:, :, 0]
    image = read_image(_save(tmp_path / "a.png", gray))
    np.testing.assert_array_equal(image, np.repeat(gray[:, :, None], 3, axis=2))


def test_alpha_is_dropped(tmp_path):
    rgba = np.dstack([_colors(), np.full((4, 6), 128, np.uint8)])
    image = read_image(_save(tmp_path / "a.png", rgba), "RGB")
    np.testing.assert_array_equal(image, rgba[:, :, :3])


def test_cmyk_is_converted(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 0] = 255
    image = read_image(_save(tmp_path / "a.jpg", red, "CMYK", quality=100), "RGB")
    np.testing.assert_allclose(image.astype(int), red, atol=8)


def test_palette_gives_colors(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8))
    image.putpalette([10, 20, 30, 250, 0, 40])
    image.save(tmp_path / "a.png")
    expected = [[[10, 20, 30], [250, 0, 40], [250, 0, 40]]]
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png"), "RGB"), expected)


def test_16_bits_keep_the_high_byte(tmp_path):
    values = np.array([[0, 256, 65535], [4096, 32768, 255]], np.uint16)
    image = read_image(_save(tmp_path / "a.png", values))
    np.testing.assert_array_equal(image[:, :, 0], [[0, 1, 255], [16, 128, 0]])


@pytest.mark.parametrize(
    ("expected_size", "shown", "counted"),
    [
        pytest.param((6, 4), True, 0, id="labels made on the image as it is shown"),
        pytest.param((4, 6), False, 1, id="labels made on the stored pixels"),
        pytest.param(None, True, 0, id="no size known"),
    ],
)
def test_exif_rotation(tmp_path, expected_size, shown, counted):
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURN_RIGHT
    colors = np.zeros((4, 6, 3), np.uint8)
    colors[:, :3] = 200  # stored: bright on the left; turned to the right: bright on top
    path = _save(tmp_path / "a.png", colors, exif=exif)
    image = read_image(path, "RGB", expected_size)
    np.testing.assert_array_equal(image, np.rot90(colors, -1) if shown else colors)
    assert DATA_REPORT.counts.get(EXIF_LEFT_OUT, 0) == counted


@pytest.mark.parametrize(("orientation", "size"), [(1, (4, 6)), (3, (4, 6)), (6, (6, 4))])
def test_size_is_that_of_the_image_as_it_is_read(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    path = _save(tmp_path / "a.png", _colors(), exif=exif)
    assert image_size(path) == size == read_image(path).shape[:2]
    with pytest.raises(ImageReadError, match="none.png: cannot be read"):
        image_size(str(tmp_path / "none.png"))


def test_16_bit_image_is_rotated_too(tmp_path):
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURN_RIGHT
    path = _save(tmp_path / "a.png", np.zeros((4, 6), np.uint16), exif=exif)
    assert read_image(path).shape == (6, 4, 3)


def test_other_size_than_the_labels_say(tmp_path):
    path = _save(tmp_path / "a.png", _colors())
    with pytest.raises(SizeMismatchError, match=r"a\.png: found .* 6x4, expected 5x4"):
        read_image(path, "BGR", (4, 5))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_file(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    rng = np.random.default_rng(0)
    _save(path, rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(ImageReadError, match=rf"a\.{suffix}: cannot be read"):
        read_image(str(path))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"", id="empty"),
        pytest.param(b"x", id="text"),
    ],
)
def test_no_image(tmp_path, content):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageReadError, match=r"a\.jpg: cannot be read"):
        read_image(str(path))


def test_float_pixels_have_no_scale(tmp_path):
    path = _save(tmp_path / "a.tiff", np.zeros((4, 6), np.float32))
    with pytest.raises(ImageReadError, match="floating-point"):
        read_image(path)


def test_label_map_gives_palette_numbers_not_colors(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8))
    image.putpalette([200, 100, 50] * 256)
    image.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    np.testing.assert_array_equal(read_label_map(str(tmp_path / "a.png")), [[0, 1], [2, 255]])


def test_label_map_of_colors_is_refused(tmp_path):
    with pytest.raises(ImageReadError, match="mode RGB, expected one channel"):
        read_label_map(_save(tmp_path / "a.png", _colors()))


def test_label_map_with_lossy_compression_is_refused(tmp_path):
    ids = np.tile(np.array([[0, 30], [7, 1]], np.uint8).repeat(3, axis=0), (6, 16))[:32]
    path = _save(tmp_path / "a.jpg", ids)
    assert set(np.unique(Image.open(path))) != {0, 1, 7, 30}
    with pytest.raises(ImageReadError, match="a.jpg: found a label map in a JPEG file"):
        read_label_map(path)
    assert read_label_map(path, grey_colors=True).shape == (32, 32)


@pytest.mark.parametrize("largest", [200, 4095])
def test_16_bit_image_that_becomes_black_is_counted(tmp_path, largest):
    path = _save(tmp_path / "a.png", np.array([[1, largest]], np.uint16))
    assert read_image(path).max() == largest >> 8
    assert DATA_REPORT.counts == ({DARK_16_BIT: 1} if largest < 256 else {})


@pytest.mark.parametrize(
    ("size", "turned"),
    [
        pytest.param((3, 2), True, id="as shown"),
        pytest.param((2, 3), False, id="as stored"),
        pytest.param((7, 7), True, id="neither"),
        pytest.param(None, True, id="any"),
    ],
)
def test_label_map_turns_as_its_image_does(tmp_path, size, turned):
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURN_RIGHT
    found = read_label_map(_save(tmp_path / "a.png", ids, exif=exif), expected_size=size)
    np.testing.assert_array_equal(found, np.rot90(ids, -1) if turned else ids)
