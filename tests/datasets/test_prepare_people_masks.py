"""datasets/prepare_people_masks.py: folders of masks to COCO's format."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

import prepare_people_masks as tool


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for index in range(1, 4):
        cv2.imwrite(str(tmp_path / f"images/{index:04d}.jpg"), np.zeros((20, 30, 3), np.uint8))
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 10:20] = 3
    mask[5:7, 10:20] = 2
    savemat(tmp_path / "masks/0001.mat", {"groundtruth": mask})
    cv2.imwrite(str(tmp_path / "masks/0002.png"), np.zeros((20, 30), np.uint8))
    return tmp_path


def run(folder: Path, *words: str) -> dict:
    output = folder / "out/people.json"
    paths = ["--images", str(folder / "images"), "--masks", str(folder / "masks")]
    assert tool.main([*paths, "--output", str(output), *words]) == 0
    return json.loads(output.read_text())


def test_masks_become_annotations_and_ignored_values_crowds(folders: Path) -> None:
    content = run(folders, "--ignore", "2")
    assert [image["file_name"] for image in content["images"]] == ["0001.jpg", "0002.jpg"]
    person, ignored = content["annotations"]
    assert (person["iscrowd"], person["area"], person["bbox"]) == (0, 80, [10, 7, 10, 8])
    assert (ignored["iscrowd"], ignored["area"]) == (1, 20)
    decoded = coco_mask.decode(person["segmentation"])
    assert decoded.shape == (20, 30) and decoded[7:15, 10:20].all() and decoded.sum() == 80


def test_a_range_and_a_list_of_images(folders: Path) -> None:
    assert [x["file_name"] for x in run(folders, "--first", "2")["images"]] == ["0002.jpg"]
    (folders / "names.txt").write_text("0001\n")
    content = run(folders, "--names", str(folders / "names.txt"))
    assert [x["file_name"] for x in content["images"]] == ["0001.jpg"]


def test_a_mask_of_another_size_is_an_error(folders: Path, capsys) -> None:
    cv2.imwrite(str(folders / "masks/0003.png"), np.zeros((21, 30), np.uint8))
    words = ["--images", str(folders / "images"), "--masks", str(folders / "masks")]
    assert tool.main([*words, "--output", str(folders / "x.json")]) == 2
    assert "expected the size of its mask, (21, 30)" in capsys.readouterr().err
    assert not (folders / "x.json").exists()


def test_masks_of_16_bits_and_palettes_keep_their_values(folders: Path) -> None:
    cv2.imwrite(str(folders / "masks/0002.png"), np.full((20, 30), 1, np.uint16))
    palette = Image.fromarray(np.full((20, 30), 2, np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 9, 9, 9, 255, 255, 255])
    palette.save(folders / "masks/0003.png")
    content = run(folders, "--ignore", "2", "--first", "2")
    assert [(x["iscrowd"], x["area"]) for x in content["annotations"]] == [(0, 600), (1, 600)]


@pytest.mark.parametrize("content", [b"no image", b""])
def test_damaged_masks_are_errors(folders: Path, content: bytes, capsys) -> None:
    (folders / "masks/0003.png").write_bytes(content)
    words = ["--images", str(folders / "images"), "--masks", str(folders / "masks")]
    assert tool.main([*words, "--output", str(folders / "x.json")]) == 2
    assert "the mask cannot be read" in capsys.readouterr().err


def test_ranges_need_numbers(folders: Path, capsys) -> None:
    cv2.imwrite(str(folders / "images/a.jpg"), np.zeros((20, 30, 3), np.uint8))
    words = ["--images", str(folders / "images"), "--masks", str(folders / "masks")]
    assert tool.main([*words, "--output", str(folders / "x.json"), "--first", "2"]) == 2
    assert "found the image a.jpg, expected numbers" in capsys.readouterr().err


def test_no_masks_at_all(folders: Path, capsys) -> None:
    words = ["--images", str(folders / "images"), "--masks", str(folders / "images")]
    assert tool.main([*words, "--output", str(folders / "x.json")]) == 2
    assert "none of its images has a mask" in capsys.readouterr().err


def test_a_coco_file_loses_its_keypoints_only(folders: Path) -> None:
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "area": 25}
    content = {
        "images": [{"id": 1, "file_name": "0001.jpg", "height": 20, "width": 30}],
        "annotations": [{**person, "keypoints": [1, 1, 2], "num_keypoints": 1}],
        "categories": [{"id": 1, "name": "person", "keypoints": ["head"], "skeleton": []}],
    }
    (folders / "coco.json").write_text(json.dumps(content))
    output = folders / "tud.json"
    assert tool.main(["--coco", str(folders / "coco.json"), "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["annotations"] == [person]
    assert found["categories"] == [{"id": 1, "name": "person"}]
    content["images"].append({**content["images"][0], "id": 2, "file_name": "0002.jpg"})
    (folders / "coco.json").write_text(json.dumps(content))
    (folders / "names.txt").write_text("0001.jpg")
    words = ["--coco", str(folders / "coco.json"), "--output", str(output), "--keep-keypoints"]
    assert tool.main([*words, "--names", str(folders / "names.txt")]) == 0
    found = json.loads(output.read_text())
    assert [x["id"] for x in found["images"]] == [1]
    assert found["annotations"][0]["keypoints"] == [1, 1, 2]
    (folders / "coco.json").write_text("[]")
    assert tool.main(["--coco", str(folders / "coco.json"), "--output", str(output)]) == 2


def test_either_folders_or_a_file(folders: Path) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--images", str(folders), "--output", "x.json"])
