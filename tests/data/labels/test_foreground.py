"""Foreground masks: what the numbers of a file mean, and the union of objects."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image

from d2_multitask.data.io import MASK_IN_ALPHA, ImageReadError
from d2_multitask.data.labels.foreground import (
    ForegroundLabel,
    MaskValues,
    read_foreground,
)
from d2_multitask.data.labels.sem_seg import MASK_NOT_DECODED
from d2_multitask.data.problems import ProblemReport


def save(path, rows, mode="L") -> str:
    image = Image.fromarray(np.array(rows, dtype=np.uint8))
    image.convert(mode).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("rows", "values", "threshold", "expected"),
    [
        pytest.param([[0, 255, 255]], None, 0, [[0, 1, 1]], id="0 and 255"),
        pytest.param([[0, 1, 0]], None, 0, [[0, 1, 0]], id="0 and 1"),
        pytest.param([[0, 0, 0]], None, 0, [[0, 0, 0]], id="nothing there"),
        pytest.param(
            [[0, 1, 255]],
            {"BACKGROUND": 0, "FOREGROUND": 1, "IGNORE": 255},
            0,
            [[0, 1, 255]],
            id="ignored pixels",
        ),
        pytest.param(
            [[7, 3, 4]],
            {"BACKGROUND": [7], "FOREGROUND": [3, 4]},
            0,
            [[0, 1, 1]],
            id="several values",
        ),
        pytest.param([[127, 128, 200]], None, 128, [[0, 1, 1]], id="threshold"),
    ],
)
def test_values(rows, values, threshold, expected, tmp_path):
    path = save(tmp_path / "m.png", rows)
    found = read_foreground(path, (1, 3), MaskValues.from_mapping(values, threshold))
    assert found.dtype == np.uint8 and found.tolist() == expected


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "LA"])
def test_kinds_of_files(mode, tmp_path):
    path = save(tmp_path / "m.png", [[0, 255], [255, 0]], mode)
    if mode == "P":  # the numbers count, not the colours
        image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
        image.putpalette([200, 0, 0, 0, 200, 0])
        image.save(path)
    assert read_foreground(path, (2, 2)).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        pytest.param(
            [[0, 1, 255]], None, r"values \[0, 1, 255\].*0 and 1, or 0 and 255", id="ambiguous"
        ),
        pytest.param([[0, 128, 254]], None, r"\[128, 254\] in 2.*MASK_THRESHOLD", id="soft"),
        pytest.param(
            [[0, 1, 9]],
            {"BACKGROUND": 0, "FOREGROUND": 1, "IGNORE": 255},
            r"\[9\] in 1 pixels.*background \[0\], foreground \[1\], ignore \[255\]",
            id="others than said",
        ),
        pytest.param([[0, 1]], None, "mask of 2x1, expected 3x1", id="size"),
    ],
)
def test_bad_masks(rows, values, message, tmp_path):
    path = save(tmp_path / "mask_7.png", rows)
    with pytest.raises(ImageReadError, match=rf"mask_7.png: found .*{message}"):
        read_foreground(path, (1, 3), MaskValues.from_mapping(values))


def test_files_that_are_no_masks(tmp_path):
    colours = np.zeros((2, 2, 3), np.uint8)
    colours[0, 0] = 10, 200, 30
    Image.fromarray(colours).save(tmp_path / "colours.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.fromarray(np.full((2, 2), 300, np.uint16)).save(tmp_path / "deep.png")
    for name, message in (
        ("colours.png", "mode RGB, expected one channel"),
        ("broken.png", "cannot be read"),
        ("absent.png", "cannot be read"),
        ("deep.png", "values 300..300, expected 0..255"),
    ):
        with pytest.raises(ImageReadError, match=f"{name}.*{message}"):
            read_foreground(str(tmp_path / name), (2, 2))


@pytest.mark.parametrize(
    ("values", "threshold", "message"),
    [
        ({"BACKGROUND": 0}, 0, "expected BACKGROUND, FOREGROUND"),
        ({"BACKGROUND": 0, "foreground": 1}, 0, "did you mean FOREGROUND"),
        ({"BACKGROUND": 0, "FOREGROUND": 0}, 0, "each value once"),
        ({"BACKGROUND": 0, "FOREGROUND": 256}, 0, "FOREGROUND: found 256"),
        ({"BACKGROUND": 0, "FOREGROUND": "x"}, 0, "FOREGROUND: found 'x'"),
        ({"BACKGROUND": 0, "FOREGROUND": 1}, 9, "found both"),
        (None, 256, "MASK_THRESHOLD: found 256"),
    ],
)
def test_bad_meanings(values, threshold, message):
    with pytest.raises(ValueError, match=message):
        MaskValues.from_mapping(values, threshold)


def annotation(x0, x1, **more):
    """An object in the columns x0 to x1 of an image of one row of eight pixels."""
    box = {"bbox": [x0, 0, x1, 1], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
    return {**box, "segmentation": [[x0, 0, x1, 0, x1, 1, x0, 1]], **more}


def record(*annotations, **more):
    return {"file_name": "a", "height": 1, "width": 8, "annotations": list(annotations), **more}


def test_union_of_objects_with_crowds_ignored():
    crowd = annotation(4, 7, iscrowd=1)
    found = ForegroundLabel().read(record(annotation(0, 2), annotation(1, 3, category_id=5), crowd))
    assert found.tolist() == [[1, 1, 1, 0, 255, 255, 255, 0]]
    # An object in a crowd is seen.
    found = ForegroundLabel().read(record(annotation(5, 6), crowd))
    assert found.tolist() == [[0, 0, 0, 0, 255, 1, 255, 0]]


def test_an_object_without_a_usable_mask_is_ignored_in_its_box():
    report = ProblemReport()
    broken = annotation(4, 6, segmentation=[[1, 2, 3]])
    bare = {k: v for k, v in annotation(6, 8).items() if k != "segmentation"}
    found = ForegroundLabel().read(record(annotation(0, 2), broken, bare), report)
    assert found.tolist() == [[1, 1, 0, 0, 255, 255, 255, 255]]
    assert report.counts == {MASK_NOT_DECODED: 1}


def test_which_images_have_a_foreground():
    bare = {k: v for k, v in annotation(6, 8).items() if k != "segmentation"}
    assert ForegroundLabel().has(record(annotation(0, 1)))
    assert not ForegroundLabel().has(record(bare))  # boxes are no masks
    assert not ForegroundLabel().has(record())  # maybe of a data set of boxes
    empty = record(sem_seg_from_annotations=True)
    assert ForegroundLabel().has(empty) and not ForegroundLabel().read(empty).any()
    assert not ForegroundLabel().has({"file_name": "a"})
    assert ForegroundLabel().read({"file_name": "a", "height": 1, "width": 1}) is None


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("color", [0, 255])
@pytest.mark.parametrize("alpha", [[[0, 255]], [[0, 0]]])
def test_mask_in_alpha(tmp_path, mode, color, alpha):
    """Its colours are the same everywhere: all foreground, or all background."""
    image = Image.new(mode, (2, 1), (color,) * (len(mode) - 1) + (0,))
    image.putalpha(Image.fromarray(np.array(alpha, dtype=np.uint8)))
    image.save(tmp_path / "m.png")
    report = ProblemReport()
    mask = read_foreground(str(tmp_path / "m.png"), (1, 2), report=report)
    assert mask.tolist() == [[value // 255 for value in alpha[0]]]
    assert report.counts == {MASK_IN_ALPHA: 1}


def test_opaque_mask_with_alpha_is_read_from_its_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("RGBA")
    image.save(tmp_path / "m.png")
    assert read_foreground(str(tmp_path / "m.png"), (1, 2)).tolist() == [[0, 1]]


@pytest.mark.parametrize("rows", [[[0, 1]], [[0, 255]], [[0, 0]]])
def test_palette_that_shows_the_negative(tmp_path, rows):
    """Programs that reduce colours may give white the number 0."""
    path = tmp_path / "m.png"
    image = Image.fromarray(np.array(rows, dtype=np.uint8))
    image.putpalette([255, 255, 255] + [0, 0, 0] * 255)
    image.save(path)
    for values in (None, MaskValues.from_mapping(None, 128)):
        with pytest.raises(ImageReadError, match="m.png: found a palette in which 0 is white"):
            read_foreground(str(path), (1, 2), values)
    said = MaskValues.from_mapping({"BACKGROUND": [1, 255], "FOREGROUND": 0})
    assert read_foreground(str(path), (1, 2), said)[0, 0] == 1
    image.putpalette([0, 0, 0] + [128, 0, 0] * 255)  # PASCAL VOC's
    image.save(path)
    assert read_foreground(str(path), (1, 2)).tolist() == [[0, int(rows[0][1] > 0)]]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_mask_of_more_bits(tmp_path, dtype):
    """Small values are read as they are; 65535 is not 255."""
    for high in (1, 255):
        Image.fromarray(np.array([[0, high]], dtype=dtype)).save(tmp_path / "m.tiff")
        assert read_foreground(str(tmp_path / "m.tiff"), (1, 2)).tolist() == [[0, 1]]
    Image.fromarray(np.array([[0, 65535]], dtype=dtype)).save(tmp_path / "m.tiff")
    with pytest.raises(ImageReadError, match=r"m.tiff: found values 0..65535, .*8 bits"):
        read_foreground(str(tmp_path / "m.tiff"), (1, 2))
