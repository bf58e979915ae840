"""datasets/convert/mat.py: MATLAB's joints to COCO's, computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import mat
from conversion_support import write_mpii

NAMES = ("nose", "left_hand", "right_hand", "left_foot", "right_foot")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of 200 x 100 pixels."""
    (tmp_path / "images").mkdir()
    for name in ("im1.png", "im2.png"):
        Image.new("RGB", (200, 100)).save(tmp_path / "images" / name)
    return tmp_path


def words_for(folder: Path, *words: str) -> list[str]:
    paths = [str(folder / name) for name in ("a.mat", "images", "out/people.json")]
    return [paths[0], "--images", paths[1], "--output", paths[2], *words]


def run(folder: Path, *words: str) -> dict:
    assert mat.main(words_for(folder, *words)) == 0
    return json.loads((folder / "out/people.json").read_text())


def lsp_array() -> np.ndarray:
    """(3, 5, 2) as LSP has it: the nose and the left hand in the first image, all in the second."""
    joints = np.zeros((3, 5, 2))
    joints[:, :, 0] = [[31, 71, 0, 0, 0], [41, 21, 0, 0, 0], [1, 0, 0, 0, 0]]
    joints[:, :, 1] = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 1, 1, 1, 1]]
    return joints


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_an_array_in_any_order_of_its_axes(folder: Path, axes: tuple[int, ...]) -> None:
    savemat(folder / "a.mat", {"joints": lsp_array().transpose(axes)})
    content = run(folder, "--third", "labelled", "--keypoints", *NAMES)
    assert content["categories"] == [
        {"id": 1, "name": "person", "keypoints": list(NAMES), "skeleton": []}
    ]
    first, second = content["annotations"]
    # MATLAB's (31, 41) is COCO's (30, 40). Of one joint the box is a pixel, wider by a tenth.
    assert first["keypoints"] == [30, 40, 2, *[0] * 12]
    assert first["bbox"] == [29.9, 39.9, 1.2, 1.2]
    assert second["keypoints"] == [x for i in range(5) for x in (i, i, 2)]
    assert second["bbox"] == [0, 0, 5.5, 5.5] and second["image_id"] == 2
    assert second["area"] == pytest.approx(0.53 * 5.5**2, abs=1e-3)


@pytest.mark.parametrize(("third", "expected"), [("occluded", [1, 2]), ("visible", [2, 1])])
def test_what_the_third_number_says(folder: Path, third: str, expected: list[int]) -> None:
    savemat(folder / "a.mat", {"joints": lsp_array()})
    content = run(folder, "--third", third, "--keypoints", *NAMES)
    assert content["annotations"][0]["keypoints"][2:6:3] == expected
    left = content["annotations"][0]["keypoints"][3:6]
    assert left[:2] == [70, 20]


def test_mpii(folder: Path) -> None:
    """Joints in any order, some missing; people and images without joints."""
    person = [(4, 101, 51, 0), (0, 81, 31, 1), (1, 91, 41, None), (2, 11, 21, "0")]
    write_mpii(
        folder / "a.mat", [("gone.png", [person]), ("im1.png", []), ("im2.png", [person, []])]
    )
    content = run(folder, "--keypoints", *NAMES)
    assert [(x["id"], x["file_name"]) for x in content["images"]] == [(2, "im2.png")]
    (found,) = content["annotations"]
    expected = [80, 30, 2, 90, 40, 2, 10, 20, 1, 0, 0, 0, 100, 50, 1]
    assert (found["image_id"], found["keypoints"]) == (2, expected)
    # From (10, 20) to (101, 51), wider by 9.1 and inside of the image.
    assert found["bbox"] == [0.9, 10.9, 109.2, 49.2]


def test_wrong_files(folder: Path, capsys) -> None:
    (folder / "a.mat").unlink(missing_ok=True)
    absent = words_for(folder, "--third", "visible", "--keypoints", *NAMES)
    assert mat.main(absent) == 2
    assert "a.mat: there is no such file" in capsys.readouterr().err
    (folder / "a.mat").write_bytes(b"no MATLAB")
    words = words_for(folder, "--third", "visible", "--keypoints", *NAMES)
    assert mat.main(words) == 2
    assert "a.mat: cannot be read as a .mat file" in capsys.readouterr().err
    savemat(folder / "a.mat", {"joints": np.ones((3, 14, 2))})
    assert mat.main(words) == 2
    error = capsys.readouterr().err
    assert "{'joints': (3, 14, 2)}" in error and "an array of (2, 5, 3)" in error
    savemat(folder / "a.mat", {"joints": lsp_array()})
    assert mat.main(words_for(folder, "--keypoints", *NAMES)) == 2
    assert "expected --third" in capsys.readouterr().err
    savemat(folder / "a.mat", {"joints": np.zeros((3, 5, 2))})
    assert mat.main(words_for(folder, "--third", "labelled", "--keypoints", *NAMES)) == 2
    assert "found nobody with joints" in capsys.readouterr().err
    write_mpii(folder / "a.mat", [("im1.png", [[(15, 1, 1, 1), (2, 3, 3, 1)]])])
    assert mat.main(words_for(folder, "--keypoints", *NAMES)) == 2
    assert "--keypoints: found 5 names, and a joint 15" in capsys.readouterr().err
    savemat(folder / "a.mat", {"RELEASE": {"version": 1}})
    assert mat.main(words_for(folder, "--keypoints", *NAMES)) == 2
    assert "a.mat: expected MPII's structs: " in capsys.readouterr().err
    assert not (folder / "out").exists()
