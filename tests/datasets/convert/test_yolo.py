"""datasets/convert/yolo.py: shares of the image to pixels, computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

import yolo
from conversion_support import of_images, synthetic_people, write_yolo
from d2_multitask import register_coco_format


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of 200 x 100 pixels."""
    for name in ("images/a.png", "images/sub/b.jpg", "images/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100)).save(tmp_path / name)
    (tmp_path / "labels/sub").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("names: [cat, dog]")
    return tmp_path


def run(folder: Path, *words: str) -> dict:
    assert yolo.main(words_for(folder, *words)) == 0
    return json.loads((folder / "out/train.json").read_text())


def words_for(folder: Path, *words: str) -> list[str]:
    paths = {"images": "images", "labels": "labels", "output": "out/train.json"}
    options = [x for key, path in paths.items() for x in (f"--{key}", str(folder / path))]
    return [str(folder / "data.yaml"), *options, *words]


def test_boxes_and_images_without_objects(folder: Path, capsys) -> None:
    (folder / "labels/a.txt").write_text("1 0.5 0.5 0.2 0.4\n\n0.0 .25 .25 1e-1 .1")
    (folder / "labels/sub/b.txt").write_text("\n")
    (folder / "labels/classes.txt").write_text("cat\ndog")
    (folder / "labels/lost.txt").write_text("0 0.5 0.5 0.2 0.4")
    content = run(folder)
    names = [image["file_name"] for image in content["images"]]
    assert names == ["a.png", "c.png", "sub/b.jpg"]
    assert content["images"][1] == {"id": 2, "file_name": "c.png", "height": 100, "width": 200}
    assert [x["name"] for x in content["categories"]] == ["cat", "dog"]
    first = {"id": 1, "iscrowd": 0, "image_id": 1, "category_id": 2}
    assert content["annotations"] == [
        {**first, "bbox": [80, 30, 40, 40], "area": 1600},
        {**first, "id": 2, "category_id": 1, "bbox": [40, 20, 20, 10], "area": 200},
    ]
    told = capsys.readouterr().out
    assert "1 images have no label file" in told
    assert "1 label files have no image and are left out" in told and "lost.txt" in told


def test_polygons(folder: Path) -> None:
    triangle, square = "0 .1 .1 .2 .1 .2 .3", "1 0 0 .5 0 .5 1 0 1"
    (folder / "labels/a.txt").write_text(f"{triangle}\n1 0.5 0.5 0.2 0.4\n{square}")
    (folder / "data.yaml").write_text("names: {1: dog, 0: cat}")
    found = {x["area"]: x for x in run(folder)["annotations"]}
    assert set(found) == {200, 1600, 10000}  # triangle of 20 x 20, box, half of the image
    assert found[200]["segmentation"] == [[20, 10, 40, 10, 40, 30]]
    assert found[200]["bbox"] == [20, 10, 20, 20]
    assert found[10000]["bbox"] == [0, 0, 100, 100] and found[10000]["category_id"] == 2
    assert "segmentation" not in found[1600]


@pytest.mark.parametrize("names", ["[nose, tail]", "[[nose, tail]]", "{0: [nose, tail]}"])
def test_keypoints_and_a_box_without(folder: Path, names: str) -> None:
    (folder / "data.yaml").write_text(f"names: [dog]\nkpt_shape: [2, 3]\nkpt_names: {names}")
    (folder / "labels/a.txt").write_text("0 .5 .5 .2 .4 .1 .2 1 9 9 0\n0 .5 .5 .2 .4")
    content = run(folder)
    assert content["categories"][0]["keypoints"] == ["nose", "tail"]
    found = {len(x.get("keypoints", ())): x for x in content["annotations"]}
    assert found[6]["keypoints"] == [20, 20, 1, 0, 0, 0]
    assert found[6]["area"] == 848 and found[0]["area"] == 1600  # 0.53 of 40 x 40


def test_keypoints_of_two_numbers(folder: Path) -> None:
    (folder / "data.yaml").write_text("names: [dog]\nkpt_shape: [4, 2]")
    (folder / "labels/a.txt").write_text("0 .5 .5 .2 .4 .1 .2 0 0 -1 -1 0 .5")
    content = run(folder, "--keypoints", "a", "b", "c", "d")
    assert content["annotations"][0]["keypoints"] == [20, 20, 2, 0, 0, 0, 0, 0, 0, 0, 50, 2]


def test_sizes_are_those_of_the_shown_image_from_headers_alone(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter: 100 x 200
    Image.effect_noise((200, 100), 50).save(folder / "images/a.jpg", exif=exif)
    (folder / "images/a.png").unlink()
    whole = (folder / "images/a.jpg").read_bytes()
    (folder / "images/a.jpg").write_bytes(whole[: len(whole) // 2])  # pixels that cannot be read
    (folder / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5")
    content = run(folder)
    assert (content["images"][0]["height"], content["images"][0]["width"]) == (200, 100)
    assert content["annotations"][0]["bbox"] == [25, 50, 50, 100]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n0 a .5 .2 .4", "a.txt:2: could not convert string to float: 'a', expected numbers"),
        ("2 .5 .5 .2 .4", "a.txt:1: found 2 0.5 0.5 0.2 0.4, expected a class from 0 to 1"),
        ("-1 .5 .5 .2 .4", "expected a class from 0 to 1"),
        ("0.5 .5 .5 .2 .4", "expected a class from 0 to 1"),
        ("0 80 30 40 40", "found 0 80 30 40 40, expected shares of the image's width and height"),
        ("0 nan .3 .4 .4", "expected shares"),
        ("0 .1 .1 .2 .1 .2 -.3", "expected shares"),
        ("0 .5 .5 .2", "found 4 numbers, expected 5 (a box) or 7, 9, 11 ... (a polygon)"),
        ("0 .5 .5 .2 .4 .9", "found 6 numbers"),
        ("0 .5 .5 .2 .4 .1 .1 2 .1 .1 2", "expected shares"),  # 11 numbers may be a polygon
        ("0 .5 .5 .2 .4 .1 .1 2 .1 .1 2 .1 .1 2", "keypoints need kpt_shape in data.yaml"),
    ],
)
def test_wrong_lines(folder: Path, text: str, message: str, capsys) -> None:
    (folder / "labels/a.txt").write_text(text)
    assert yolo.main(words_for(folder)) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [", "is not YAML"),
        ("- a", "field 'names': found None"),
        ("names: [cat, cat]", "field 'names': found ['cat', 'cat'], expected different names"),
        ("names: {1: cat}", "field 'names': found {1: 'cat'}, expected a list"),
        ("names: [cat]\nkpt_shape: 17", "field 'kpt_shape': found 17, expected [number, 2 or 3]"),
        ("names: [cat]\nkpt_shape: [2, 3]", "found (), expected 2 names; type --keypoints"),
        ("names: [cat]\nkpt_shape: [2, 3]\nkpt_names: 5", "found 5, expected 2 names"),
        ("names: [cat]\nkpt_shape: [2, 3]\nkpt_names: [5]", "found 5, expected 2 names"),
        ("names: [cat]\nkpt_shape: [3, 3]\nkpt_names: [a, b]", "found ['a', 'b'], expected 3"),
    ],
)
def test_wrong_data_yaml(folder: Path, text: str, message: str, capsys) -> None:
    (folder / "data.yaml").write_text(text)
    assert yolo.main(words_for(folder)) == 2
    assert message in capsys.readouterr().err


def test_wrong_visibility_and_number_of_keypoints(folder: Path, capsys) -> None:
    (folder / "data.yaml").write_text("names: [dog]\nkpt_shape: [1, 3]\nkpt_names: [[nose]]")
    for text, message in (
        ("0 .5 .5 .2 .4 .1 .1 .9", "a.txt:1: found 0 0.5 0.5 0.2 0.4 0.1 0.1 0.9, expected visib"),
        ("0 .5 .5 .2 .4 .1 .1", "found 7 numbers, expected 5 (a box) or 8 (with keypoints)"),
    ):
        (folder / "labels/a.txt").write_text(text)
        assert yolo.main(words_for(folder)) == 2
        assert message in capsys.readouterr().err


def test_a_label_file_that_is_no_text(folder: Path, capsys) -> None:
    (folder / "labels/a.txt").write_bytes(b"0 .5 .5 .2 \xff")
    assert yolo.main(words_for(folder)) == 2
    assert "labels/a.txt:0: 'utf-8' codec can't decode" in capsys.readouterr().err


def test_folders_without_images_or_labels(folder: Path, capsys) -> None:
    assert yolo.main(words_for(folder)) == 2
    assert "found no label file of an image, expected" in capsys.readouterr().err
    assert yolo.main(words_for(folder, "--images", str(folder / "labels"))) == 2
    assert "labels: found no image" in capsys.readouterr().err


def test_synthetic_people_come_back(tmp_path: Path) -> None:
    """To YOLO and back to a hundredth of a pixel: shares have six digits. The reader takes them."""
    images, coco = synthetic_people(tmp_path)
    write_yolo(tmp_path / "yolo", images, coco, pose=True)
    content = run(tmp_path / "yolo")
    for (_, before), (_, after) in zip(of_images(coco), of_images(content), strict=True):
        assert len(before) == len(after)
        for old, new in zip(before, after, strict=True):
            for key in ("bbox", "keypoints"):
                np.testing.assert_allclose(new[key], old[key], atol=0.01)
    register_coco_format("from_yolo", tmp_path / "yolo/out/train.json", tmp_path / "yolo/images")
    old = of_images(coco)[0][1][0]
    found = DatasetCatalog.get("from_yolo")[0]["annotations"][0]
    labelled = np.array(old["keypoints"]).reshape(-1, 3)[:, 2] > 0
    shift = np.subtract(found["keypoints"], old["keypoints"]).reshape(-1, 3)[labelled]
    np.testing.assert_allclose(shift, np.tile([0.5, 0.5, 0], (len(shift), 1)), atol=0.01)


def test_boxes_are_those_of_supervision(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    images, coco = synthetic_people(tmp_path)
    write_yolo(tmp_path, images, coco, pose=False)
    triangle = "\n0 .1 .1 .2 .1 .2 .3"
    for file in (tmp_path / "labels").glob("*.txt"):
        file.write_text(file.read_text() + triangle)
    content = run(tmp_path)
    theirs = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "images"), str(tmp_path / "labels"), str(tmp_path / "data.yaml")
    )
    for image, objects in of_images(content):
        boxes = np.array([x["bbox"] for x in objects]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        expected = theirs.annotations[str(tmp_path / "images" / image["file_name"])].xyxy
        order, of_theirs = np.lexsort(boxes.T.round(1)), np.lexsort(expected.T.round(1))
        np.testing.assert_allclose(boxes[order], expected[of_theirs], atol=1)
