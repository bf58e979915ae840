"""docs/your_data.md, followed in an empty folder: its recipes, its config, its commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

import mat
import yolo
from conversion_support import (
    of_images,
    synthetic_people,
    write_cvat,
    write_labelme,
    write_mpii,
    write_yolo,
)
from d2_multitask import register_coco_format
from d2_multitask.data.io import read_label_map
from d2_multitask.evaluation.coco.evaluator import check_oks_sigmas
from support import REPOSITORY
from tool_support import load_command, load_tool

PAGE = (REPOSITORY / "docs" / "your_data.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets").mkdir()
    return tmp_path


def recipe(name: str) -> dict:
    """Run a block of Python; returns its variables."""
    (code,) = re.findall(rf"```python\n# recipe: {name}\n(.*?)```", PAGE, re.DOTALL)
    steps = [x for x in code.splitlines() if x and not re.match("import|from", x)]
    assert len(steps) <= 24
    variables: dict = {}
    exec(compile(code, f"recipe {name}", "exec"), variables)
    return variables


def commands(start: str) -> list[list[str]]:
    """The page's shell commands that begin so, without this beginning."""
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).splitlines()
    found = [shlex.split(line[len(start) :]) for line in lines if line.startswith(start)]
    assert found
    return found


def read(path: str) -> dict:
    return json.loads(Path(path).read_text())


def loaded(name: str, json_file: str, images: Path, **options) -> list[dict]:
    """The dicts as training reads them."""
    register_coco_format(f"recipe_{name}", json_file, images, **options)
    return DatasetCatalog.get(f"recipe_{name}")


def test_every_recipe_is_tested() -> None:
    tests = Path(__file__).read_text()
    for name in re.findall(r"# recipe: (.+)", PAGE):
        assert f'recipe("{name}")' in tests


def test_maps_of_classes(folder: Path) -> None:
    (folder / "my_maps/images").mkdir(parents=True)
    (folder / "my_maps/classes").mkdir()
    Image.new("RGB", (30, 20)).save("my_maps/images/a.jpg")
    Image.fromarray(np.full((20, 30), 2, np.uint8)).save("my_maps/classes/a.png")
    recipe("images")
    assert read("datasets/my_maps.json")["images"] == [
        {"id": 1, "file_name": "a.jpg", "height": 20, "width": 30}
    ]
    options = {"sem_seg_root": "my_maps/classes", "stuff_classes": ["background", "a", "b"]}
    (record,) = loaded("maps", "datasets/my_maps.json", folder / "my_maps/images", **options)
    assert record["sem_seg_file_name"] == "my_maps/classes/a.png"
    assert "annotations" not in record


def test_maps_of_objects(folder: Path) -> None:
    (folder / "my_maps/objects").mkdir(parents=True)
    numbers = np.zeros((20, 30), np.uint16)
    numbers[2:6, 3:10], numbers[10:20, 20:30] = 7, 300
    for name, content in (("a", numbers), ("b", np.zeros_like(numbers))):
        Image.fromarray(content).save(f"my_maps/objects/{name}.png")
    recipe("objects")
    content = read("datasets/my_objects.json")
    assert [x["file_name"] for x in content["images"]] == ["a.png", "b.png"]
    first, second = content["annotations"]
    assert (first["bbox"], first["area"]) == ([3, 2, 7, 4], 28)
    assert second["bbox"] == [20, 10, 10, 10] and second["image_id"] == 1
    assert np.array_equal(coco_mask.decode(second["segmentation"]), numbers == 300)
    found = loaded("objects", "datasets/my_objects.json", folder)
    assert [len(x["annotations"]) for x in found] == [2, 0]


def test_maps_in_mat_files(folder: Path) -> None:
    (folder / "sbd/cls").mkdir(parents=True)
    ids = np.arange(60, dtype=np.uint8).reshape(6, 10)
    savemat("sbd/cls/2008_1.mat", {"GTcls": {"Segmentation": ids, "Boundaries": 0}})
    recipe("mat maps")
    assert np.array_equal(read_label_map("datasets/sbd/classes/2008_1.png"), ids)


def test_labelme(folder: Path) -> None:
    pytest.importorskip("supervision")
    triangle = [[100, 20], [120, 20], [120, 40]]
    shapes = [
        {"shape_type": "polygon", "points": triangle, "group_id": 1},
        {"shape_type": "polygon", "points": [[100, 60], [120, 60], [120, 80]], "group_id": 1},
        {"shape_type": "rectangle", "points": [[50.5, 60], [70, 80.5]], "group_id": None},
        {"shape_type": "point", "points": [[55, 60]], "group_id": None},
    ]
    (folder / "my_labelme/images").mkdir(parents=True)
    Image.new("RGB", (200, 100)).save("my_labelme/images/a.png")
    image = {"file_name": "a.png", "height": 100, "width": 200}
    write_labelme(folder / "my_labelme/labels", image, [{"label": "cat", **x} for x in shapes])
    with pytest.warns(UserWarning, match="Skipped unsupported LabelMe shape type"):
        recipe("labelme")
    (record,) = loaded("labelme", "datasets/my_labelme.json", folder / "my_labelme/images")
    first, second = record["annotations"]
    assert not first["iscrowd"] and first["bbox"] == [100, 20, 20, 60]
    assert second["bbox"] == [50.5, 60, 19.5, 20.5]
    # Two triangles of 20 x 20 pixels, their borders included.
    assert coco_mask.area(first["segmentation"]) == 2 * 21 * 22 // 2


def test_labelme_with_keypoints(folder: Path) -> None:
    shapes = [
        {"label": "person", "shape_type": "rectangle", "points": [[50.5, 60], [70, 80.5]]},
        {"label": "right_hand", "shape_type": "point", "points": [[55.5, 61]]},
        {"label": "person", "shape_type": "polygon", "points": [[52, 62], [60, 62], [60, 70]]},
    ]
    shapes = [{**shape, "group_id": 1} for shape in shapes]
    shapes += [{"label": "nose", "shape_type": "point", "points": [[5, 6]], "group_id": None}]
    shapes += [{"label": "nose", "shape_type": "point", "points": [[9, 8]], "group_id": 1}]
    image = {"file_name": "a.png", "height": 100, "width": 200}
    write_labelme(folder / "my_labelme/labels", image, shapes)
    recipe("labelme keypoints")
    (record,) = loaded("labelme_keypoints", "datasets/my_labelme.json", folder)
    (first,) = record["annotations"]  # a nose alone has no box
    assert first["bbox"] == [50.5, 60, 19.5, 20.5]
    assert first["keypoints"] == [9, 8, 2, 0, 0, 0, 55.5, 61, 2]  # as marked: continuous pixels
    assert np.array_equal(first["segmentation"], [[52, 62, 60, 62, 60, 70]])


def test_cvat(folder: Path) -> None:
    pytest.importorskip("datumaro")
    (folder / "my_cvat/images").mkdir(parents=True)
    Image.new("RGB", (200, 100)).save("my_cvat/images/a.png")
    image = {"file_name": "a.png", "height": 100, "width": 200}
    elements = [
        {"tag": "box", "xtl": "10.50", "ytl": "20.25", "xbr": "60.50", "ybr": "90.75"},
        {"tag": "polygon", "points": "100.00,20.00;120.50,20.00;120.50,40.25"},
        {"tag": "mask", "rle": "2, 4, 2", "left": "30", "top": "40", "width": "4", "height": "2"},
        {"tag": "points", "points": "155.00,60.00;160.00,61.00"},
    ]
    write_cvat(folder / "my_cvat/annotations.xml", [(image, elements)])
    recipe("cvat")
    (file,) = (folder / "datasets/my_cvat/annotations").glob("*.json")
    (record,) = loaded("cvat", str(file), folder / "my_cvat/images")
    box, polygon, mask = record["annotations"]
    assert box["bbox"] == [10.5, 20.25, 50, 70.5] and "segmentation" not in box
    assert np.array_equal(polygon["segmentation"], [[100, 20, 120.5, 20, 120.5, 40.25]])
    decoded = coco_mask.decode(mask["segmentation"])
    assert np.argwhere(decoded).tolist() == [[40, 32], [40, 33], [41, 30], [41, 31]]
    assert not mask["iscrowd"]


def test_mat(folder: Path) -> None:
    names = []
    for kind, count in (("lsp", 14), ("mpii", 16)):
        (folder / kind / "images").mkdir(parents=True)
        Image.new("RGB", (200, 100)).save(f"{kind}/images/im1.png")
        names.append(count)
    savemat("lsp/joints.mat", {"joints": np.full((3, 14, 1), 5.0)})
    write_mpii(Path("mpii/mpii_human_pose_v1_u12_1.mat"), [("im1.png", [[(15, 9, 9, 1)] * 2])])
    for words, count in zip(commands("python datasets/convert/mat.py "), names, strict=True):
        assert mat.main(words) == 0
        content = read(words[-1])
        assert len(content["categories"][0]["keypoints"]) == count
        assert content["annotations"][0]["keypoints"][-3] in (4, 8)
        assert "lsp" in words[0] or content["annotations"][0]["keypoints"][-1] == 2


def test_sigmas() -> None:
    oks_sigmas = recipe("sigmas")["oks_sigmas"]
    # Two people, 6 and 8 pixels apart in x and y, are each 5 from the mean: 50 / 10000.
    points = np.array([[[[10, 10.0]], [[16, 18]]]])
    labelled = np.ones((1, 2, 1), bool)
    assert oks_sigmas(points, labelled, np.array([1e4])) == pytest.approx([0.005**0.5])
    # Of many objects, some joints not labelled: what the points were drawn with comes back.
    generator = np.random.default_rng(0)
    sigmas, area = np.array([0.03, 0.1]), generator.uniform(1e3, 1e5, 4000)
    spread = np.sqrt(area)[:, None, None] * sigmas / np.sqrt(2)  # of x and of y
    points = generator.normal(size=(4000, 3, 2, 2)) * spread[..., None] + 100
    labelled = generator.random((4000, 3, 2)) < 0.8
    points[~labelled] = 0
    found = oks_sigmas(points, labelled, area)
    np.testing.assert_allclose(found, sigmas, rtol=0.03)
    check_oks_sigmas(list(found), 2, "mine")


@pytest.fixture
def my_people(folder: Path) -> list[str]:
    """Synthetic people as YOLO files, converted; the page's config, to be trained from scratch."""
    for split in ("train", "val"):
        images, coco = synthetic_people(folder / "drawn", split)
        write_yolo(folder / split, images, coco, pose=True)
        for kind in ("images", "labels"):
            (folder / "my_yolo" / kind).mkdir(parents=True, exist_ok=True)
            shutil.move(folder / split / kind, folder / "my_yolo" / kind / split)
    shutil.move(folder / "val/data.yaml", folder / "my_yolo")
    for words in commands("python datasets/convert/yolo.py "):
        assert yolo.main(words) == 0
    converted = of_images(read("datasets/my_people/val.json"))
    assert [len(x) for _, x in converted] == [len(x) for _, x in of_images(coco)]
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (folder / "configs").mkdir()
    base = REPOSITORY / "configs/movenet/mcn_people.yaml"
    (folder / "configs/my_people.yaml").write_text(
        text.replace("movenet/mcn_people.yaml", str(base))
    )
    small = {"INPUT.MIN_SIZE_TEST": 128, "INPUT.MAX_SIZE_TEST": 128, "DATALOADER.NUM_WORKERS": 0}
    small |= {"MODEL.WEIGHTS": "", "SOLVER.MAX_ITER": 2, "SOLVER.IMS_PER_BATCH": 2}
    return [str(x) for item in small.items() for x in item]


def test_the_config_trains_and_is_evaluated(my_people: list[str], capsys) -> None:
    (check,) = commands("d2mt check ")
    assert load_command("check").main([*check, *my_people]) == 0
    assert capsys.readouterr().out.endswith("A training can start.\n")
    visualize = load_tool("visualize_data.py")
    for words in commands("python tools/visualize_data.py "):
        assert visualize.main([*words, *my_people]) == 0
        assert len(list(Path(words[-1]).iterdir())) >= 4
    (train,) = commands("d2mt train ")
    assert load_command("train").main([*train, *my_people, "SOLVER.STEPS", "()"]) == 0
    (evaluate,) = commands("d2mt eval ")
    assert load_command("eval").main(evaluate) == 0
    assert set(read("output/eval/results.json")) == {"bbox", "keypoints"}
    (predict,) = commands("d2mt predict ")
    assert load_command("predict").main(predict) == 0
