"""Contact sheets: sizes, places and captions."""

from __future__ import annotations

import numpy as np
import pytest

from d2_multitask.visualization.contact_sheet import contact_sheet, fit, side_by_side, with_caption


def plain(height: int, width: int, color=(255, 0, 0)) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        pytest.param((50, 100), (100, 200), id="enlarged"),
        pytest.param((400, 800), (100, 200), id="reduced"),
        pytest.param((300, 100), (200, 67), id="portrait-by-height"),
        pytest.param((100, 200), (100, 200), id="fits"),
        pytest.param((1, 5000), (1, 200), id="a-line"),
    ],
)
def test_fit_touches_the_frame_from_inside(shape, expected):
    assert fit(plain(*shape), 200, 200).shape[:2] == expected


def test_pictures_stand_in_rows():
    pictures = [plain(100, 100, color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    sheet = contact_sheet(pictures, columns=2, cell_width=100, gap=10)
    assert sheet.shape == (230, 230, 3)
    assert sheet[60, 60].tolist() == [255, 0, 0]
    assert sheet[60, 170].tolist() == [0, 255, 0]
    assert sheet[170, 60].tolist() == [0, 0, 255]
    assert sheet[170, 170].min() > 240  # the empty place


def test_a_narrow_picture_is_centred():
    sheet = contact_sheet([plain(100, 20)], cell_width=100, gap=10)
    assert sheet[60, 60].tolist() == [255, 0, 0]
    assert sheet[60, 20].min() > 240


def test_side_by_side_is_one_row():
    assert side_by_side([plain(50, 50)] * 3, cell_width=50).shape == (66, 182, 3)


@pytest.mark.parametrize(
    "text", ["short", "a very long name of a file that cannot fit.png", "", "ü"]
)
def test_a_caption_adds_a_line_and_keeps_the_width(text):
    picture = with_caption(plain(100, 120), text)
    assert picture.shape[1] == 120
    assert picture.shape[0] > 110
    assert (picture[-100:] == (255, 0, 0)).all()
    assert bool((picture[:-100] < 128).any()) == bool(text)  # letters are dark


def test_no_pictures_is_an_error():
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([])


def test_captions_must_match():
    with pytest.raises(ValueError, match="found 1 captions, expected 2"):
        contact_sheet([plain(9, 9)] * 2, ["one"])
