from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from synthetic.people import SceneConfig, draw_scene, write_synthetic_people
from synthetic.people.labels import KEYPOINT_NAMES

SMALL = replace(SceneConfig(), short_side=(64, 80))
CROWDED = replace(SMALL, short_side=(96, 112), crowd_probability=0.5)


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def content(root):
    """All that was written; JSON and PNG bytes."""
    return {name: (root / name).read_bytes() for name in files(root)}


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A folder with 16 written images, and the path of their JSON file."""
    root = tmp_path_factory.mktemp("crowded")
    return root, write_synthetic_people(root, "val", 16, 3, config=CROWDED)


def test_layout_of_the_folder(tmp_path):
    json_file = write_synthetic_people(tmp_path, "train", 2, 0, config=SMALL)
    assert json_file == tmp_path / "synthetic_people/annotations/instances_train.json"
    maps = [f"{name}/00000{i}.png" for name in ("images", "parts", "sem_seg") for i in (0, 1)]
    expected = ["annotations/instances_train.json", *(f"train/{name}" for name in maps)]
    assert files(tmp_path / "synthetic_people") == expected


def test_files_hold_what_is_drawn(crowded):
    root, json_file = crowded
    coco = json.loads(json_file.read_text())
    for index, image in enumerate(coco["images"]):
        scene = draw_scene(3, "val", index, CROWDED)
        folder = root / "synthetic_people/val"
        for name, array in (
            ("images", scene.image),
            ("sem_seg", scene.sem_seg),
            ("parts", scene.parts),
        ):
            read = np.asarray(Image.open(folder / name / image["file_name"]))
            assert np.array_equal(read, array)
        assert (image["height"], image["width"]) == scene.sem_seg.shape
        written = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        assert [{k: a[k] for k in a if k not in ("id", "image_id")} for a in written] == (
            scene.annotations
        )


def test_json_is_ordinary_coco(crowded):
    _, json_file = crowded
    content = json.loads(json_file.read_text())
    assert set(content) >= {"info", "licenses", "images", "annotations", "categories"}
    assert content["info"]["arguments"]["seed"] == 3
    (category,) = content["categories"]
    assert category["name"] == category["supercategory"] == "person"
    assert category["keypoints"] == list(KEYPOINT_NAMES)
    assert min(min(pair) for pair in category["skeleton"]) == 1
    identities = [annotation["id"] for annotation in content["annotations"]]
    assert identities == list(range(1, len(identities) + 1))


def test_pycocotools_reads_it(crowded):
    root, json_file = crowded
    coco = COCO(str(json_file))
    crowds = coco.getAnnIds(iscrowd=True)
    assert 0 < len(crowds) < len(coco.getAnnIds())
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(annotation).sum() == annotation["area"]


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
def test_the_labels_as_predictions_reach_100(crowded, task):
    _, json_file = crowded
    truth = COCO(str(json_file))
    kept = ("image_id", "category_id", "bbox", "segmentation", "keypoints")
    if task == "keypoints":
        kept = ("image_id", "category_id", "keypoints")
    if task == "bbox":
        kept = ("image_id", "category_id", "bbox")
    predictions = [
        {**{key: annotation[key] for key in kept}, "score": 0.9}
        for annotation in truth.loadAnns(truth.getAnnIds(iscrowd=False))
    ]
    evaluation = COCOeval(truth, truth.loadRes(predictions), task)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_processes_do_not_change_the_result(tmp_path):
    write_synthetic_people(tmp_path / "one", "train", 9, 5, config=SMALL)
    write_synthetic_people(tmp_path / "two", "train", 9, 5, config=SMALL, num_workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_the_number_of_images_does_not_change_the_images(tmp_path):
    write_synthetic_people(tmp_path / "few", "train", 2, 5, config=SMALL)
    write_synthetic_people(tmp_path / "many", "train", 4, 5, config=SMALL)
    few, many = content(tmp_path / "few"), content(tmp_path / "many")
    assert all(many[name] == few[name] for name in few if name.endswith(".png"))


def test_a_complete_split_is_left_alone(tmp_path):
    json_file = write_synthetic_people(tmp_path, "train", 3, 0, config=SMALL)
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
    seen = []
    again = write_synthetic_people(
        tmp_path, "train", 3, 0, config=SMALL, progress=lambda *counts: seen.append(counts)
    )
    assert again == json_file
    assert times == {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
    assert seen == [(3, 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"seed": 1}, "seed: found 0, expected 1", id="seed"),
        pytest.param({"num_images": 4}, "num_images: found 3, expected 4", id="number"),
        pytest.param(
            {"config": replace(SMALL, roll=3.0)}, r"scene_config.roll: found 5.0", id="config"
        ),
    ],
)
def test_other_arguments_need_overwrite(tmp_path, change, message):
    arguments = {"num_images": 3, "seed": 0, "config": SMALL}
    json_file = write_synthetic_people(tmp_path, "train", **arguments)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=rf"instances_train.json: info.arguments.*{message}"):
        write_synthetic_people(tmp_path, "train", **{**arguments, **change})
    assert content(tmp_path) == before
    write_synthetic_people(tmp_path, "train", **{**arguments, **change}, overwrite=True)
    assert json_file.read_bytes() != before[str(json_file.relative_to(tmp_path))]


def test_a_json_file_of_someone_else_is_not_replaced(tmp_path):
    json_file = tmp_path / "synthetic_people/annotations/instances_train.json"
    json_file.parent.mkdir(parents=True)
    json_file.write_text("[1, 2]")
    with pytest.raises(ValueError, match="not written by this generator"):
        write_synthetic_people(tmp_path, "train", 1, 0, config=SMALL)
    assert json_file.read_text() == "[1, 2]"


def test_overwriting_removes_our_surplus_files_and_no_others(tmp_path):
    write_synthetic_people(tmp_path, "train", 3, 0, config=SMALL)
    folder = tmp_path / "synthetic_people/train/images"
    (folder / "holiday.png").write_bytes(b"mine")
    (folder / "000000.png.part").write_bytes(b"left by an interrupt")
    write_synthetic_people(tmp_path, "train", 2, 0, config=SMALL, overwrite=True)
    assert files(folder) == ["000000.png", "000001.png", "holiday.png"]


class Interrupted(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_interrupted_split_is_completed(tmp_path, num_workers):
    def interrupt(done, total):
        if done == 3:
            raise Interrupted

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    write_synthetic_people(whole, "train", 8, 0, config=SMALL)
    arguments = {"config": SMALL, "num_workers": num_workers}
    with pytest.raises(Interrupted):
        write_synthetic_people(broken, "train", 8, 0, **arguments, progress=interrupt)
    assert not list(broken.rglob("*.json"))
    assert list(broken.rglob("*.png"))
    write_synthetic_people(broken, "train", 8, 0, **arguments)
    assert content(broken) == content(whole)


def test_an_interrupted_overwrite_does_not_look_complete(tmp_path):
    def interrupt(done, total):
        raise Interrupted

    write_synthetic_people(tmp_path, "train", 3, 0, config=SMALL)
    with pytest.raises(Interrupted):
        write_synthetic_people(
            tmp_path, "train", 3, 1, config=SMALL, overwrite=True, progress=interrupt
        )
    assert not list(tmp_path.rglob("*.json"))


def test_a_lost_image_is_drawn_again(tmp_path):
    write_synthetic_people(tmp_path, "train", 3, 0, config=SMALL)
    before = content(tmp_path)
    (tmp_path / "synthetic_people/train/parts/000001.png").unlink()
    write_synthetic_people(tmp_path, "train", 3, 0, config=SMALL)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"split": "../train"}, r"split: .*'\.\./train'", id="split"),
        pytest.param({"num_images": 0}, "num_images: .*got 0", id="number"),
        pytest.param({"seed": 2**32}, "seed: .*got 4294967296", id="seed"),
        pytest.param({"num_workers": 0}, "num_workers: .*got 0", id="workers"),
    ],
)
def test_bad_arguments_are_named(tmp_path, change, message):
    arguments = {"split": "train", "num_images": 1, "seed": 0, "config": SMALL}
    with pytest.raises(ValueError, match=message):
        write_synthetic_people(tmp_path, **{**arguments, **change})
    assert files(tmp_path) == []
