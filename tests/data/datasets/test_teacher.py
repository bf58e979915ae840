"""Labels of a teacher: what true ones overrule, what is not sure, and files that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from d2_multitask.config import get_multitask_cfg
from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.coco_annotations import SAME_ANNOTATION_TWICE
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.labels.foreground import ForegroundLabel
from d2_multitask.data.labels.instances import InstanceBuilder
from d2_multitask.data.labels.sem_seg import SemSegLabel
from d2_multitask.data.loader import build_test_loader, get_training_dicts
from d2_multitask.data.mapper import MultitaskDatasetMapper
from d2_multitask.data.problems import DATA_REPORT

H, W = 24, 32


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.fixture
def teacher(coco, tmp_path) -> dict[str, Any]:
    """Content of labels.json; the first person of a.png is the fixture's own, a bit wider."""
    person = {"category_id": 7, "iscrowd": 0}
    points = {"keypoints": [8, 4, 2, 10, 9, 2, 5, 9, 2], "keypoint_scores": [0.9, 0.05, 0.5]}
    objects = [
        {"id": 1, "image_id": 1, "bbox": [4, 2, 9, 16], "score": 0.8, **points, **person},
        {"id": 2, "image_id": 1, "bbox": [18, 3, 8, 8], "score": 0.2, **points, **person},
        {"id": 3, "image_id": 2, "bbox": [1, 1, 10, 10], "score": 0.5, **points, **person},
    ]
    for name in ("a", "b"):
        for key, ids in (("sem_seg", (0, 1)), ("foreground", (0, 255))):
            values = np.full((H, W), ids[0])
            values[:, 16:] = ids[1]
            confidence = np.full((H, W), 255)
            confidence[:8], confidence[8:16] = 102, 204  # 0.4 and 0.8
            save(tmp_path / f"teacher/{key}/{name}.png", values)
            save(tmp_path / f"teacher/{key}_confidence/{name}.png", confidence)
    fields = {"annotations": objects, "stuff_classes": ["background", "person"]}
    return {"images": coco["images"], "categories": coco["categories"], **fields}


@pytest.fixture
def entry(coco, write_coco, tmp_path, teacher):
    """Writes both files; returns the entry of DATASETS.REGISTER."""

    def write(true: Any = None, **fields: Any) -> dict[str, Any]:
        json_file = write_coco(coco if true is None else true)
        (tmp_path / "teacher" / "labels.json").write_text(json.dumps(teacher))
        roots = {"IMAGE_ROOT": str(tmp_path / "images"), "TEACHER_ROOT": str(tmp_path / "teacher")}
        return {"NAME": "taught", "JSON": str(json_file), **roots, **fields}

    return write


def records(entry: dict[str, Any]) -> list[dict[str, Any]]:
    register_datasets([entry])
    return load_dataset("taught")


def mapped(record: dict[str, Any], *augmentations: T.Augmentation) -> dict[str, Any]:
    labels = [SemSegLabel(2), ForegroundLabel()]
    builder = InstanceBuilder(hflip_indices=[0, 2, 1])
    mapper = MultitaskDatasetMapper(
        True, augmentations=augmentations, instance_builder=builder, labels=labels
    )
    return mapper(record)


def test_images_without_labels_get_the_teachers(coco, entry):
    first, second = records(entry({"images": coco["images"]}))
    metadata = MetadataCatalog.get("taught")
    assert metadata.thing_classes == ["person"] and metadata.stuff_classes[1] == "person"
    assert metadata.keypoint_names == ["nose", "left_hand", "right_hand"]
    result = mapped(first)
    instances = result["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[4, 2, 13, 18]]
    assert torch.allclose(instances.gt_confidence, torch.tensor([0.8]))
    # The second keypoint is not sure, and therefore not labelled.
    assert instances.gt_keypoints.tensor[0, :, 2].tolist() == [2, 0, 2]
    assert torch.allclose(instances.gt_keypoint_confidence, torch.tensor([[0.9, 0.05, 0.5]]))
    # Nor is the second object: neither object nor background.
    ignored = torch.zeros((H, W), dtype=torch.bool)
    ignored[3:11, 18:26] = True
    assert torch.equal(result["ignore_mask"], ignored)
    for key in ("sem_seg", "foreground"):
        assert (result[key][:8] == 255).all(), "0.4 is below the threshold"
        assert (result[key][8:, :16] == 0).all() and (result[key][8:, 16:] == 1).all()
        confidence = result[f"{key}_confidence"]
        assert torch.allclose(confidence[8:16], torch.tensor(0.8)) and (confidence[16:] == 1).all()
    assert mapped(second)["instances"].gt_confidence.tolist() == [0.5]


def test_mirrored_images(coco, entry):
    first, _ = records(entry({"images": coco["images"]}))
    result = mapped(first, T.HFlipTransform(W))
    confidence = result["instances"].gt_keypoint_confidence[0]
    assert torch.allclose(confidence, torch.tensor([0.9, 0.5, 0.05]))
    assert result["instances"].gt_keypoints.tensor[0, :, 2].tolist() == [2, 2, 0]
    assert (result["sem_seg"][8:, :16] == 1).all()


def test_true_labels_count_alone(coco, entry):
    """Boxes, keypoints and masks are true; b.png has a true box, but no keypoints."""
    first, second = records(entry(coco))
    assert [a.get("confidence") for a in first["annotations"]] == [None, None]
    assert "sem_seg_file_name" not in first or "sem-seg://" in first["sem_seg_file_name"]
    result = mapped(first)
    for key in ("sem_seg_confidence", "foreground_confidence"):
        assert key not in result
    assert not result["instances"].has("gt_keypoint_confidence")
    (box,) = second["annotations"]
    assert box["bbox"] == [1, 1, 10, 10] and "confidence" not in box
    assert box["keypoint_confidence"] == [0.9, 0.05, 0.5], "of the teacher's object in this box"
    assert "foreground_confidence" not in mapped(second), "maps of the dataset come from masks"
    assert not mapped(second)["instances"].has("gt_confidence")


def test_keypoints_that_are_all_zero_are_no_labels(coco, entry):
    coco["annotations"][2]["keypoints"] = [0] * 9
    _, second = records(entry(coco))
    assert second["annotations"][0]["keypoint_confidence"] == [0.9, 0.05, 0.5]


def test_unsure_parts_of_a_sure_object_do_not_hide_it(coco, entry, teacher):
    part = {**teacher["annotations"][1], "id": 9, "bbox": [5, 3, 6, 8]}
    other = {**part, "id": 10, "bbox": [8, 3, 18, 8]}
    teacher["annotations"] += [part, other]
    first, _ = records(entry({"images": coco["images"]}))
    boxes = [a["bbox"] for a in first["annotations"] if a["iscrowd"]]
    assert boxes == [[18, 3, 8, 8], [8, 3, 18, 8]]


def test_several_teachers(coco, entry, teacher, tmp_path):
    """One for boxes, one for keypoints."""
    given = entry({"images": coco["images"]})
    boxes = [{k: v for k, v in a.items() if "keypoint" not in k} for a in teacher["annotations"]]
    del teacher["stuff_classes"]
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes/labels.json").write_text(json.dumps({**teacher, "annotations": boxes}))
    roots = [str(tmp_path / "boxes"), given["TEACHER_ROOT"]]
    thresholds = {"OBJECTS": 0.6, "KEYPOINTS": 0, "MAPS": 0.3}
    first, second = records({**given, "TEACHER_ROOT": roots, "TEACHER_THRESHOLDS": thresholds})
    assert first["annotations"][0]["keypoint_confidence"] == [0.9, 0.05, 0.5]
    assert second["annotations"][0]["iscrowd"] == 1
    assert not (mapped(first)["sem_seg"] == 255).any()


BAD = {
    "other ids": (
        lambda x: x["images"][0].update(id=77),
        r"found the ids \[77, 2\].*such as \[1\]",
    ),
    "other file": (lambda x: x["images"][0].update(file_name="c.png"), r"found .*'c.png'.*'a.png'"),
    "no objects": (lambda x: x.update(annotations=[1]), "field 'annotations': found no list of"),
    "image id": (lambda x: x["annotations"][0].update(image_id=5), r"\[0\]: field 'image_id'.*5"),
    "score": (lambda x: x["annotations"][1].update(score=1.5), r"\[1\]: field 'score': found 1.5"),
    "no score": (lambda x: x["annotations"][0].pop("score"), "'score': found None, expected a num"),
    "keypoint": (
        lambda x: x["annotations"][2].update(keypoint_scores=[0, 0, -1]),
        "'keypoint_scores': found .*3 numbers from 0 to 1",
    ),
    "classes": (
        lambda x: x["categories"][0].update(name="dog"),
        r"thing_classes: found \['dog'\], expected \['person'\]",
    ),
    "keypoints": (
        lambda x: x["categories"][0].update(keypoints=["nose", "left_hand", "left_foot"]),
        "keypoint_names: found .*left_foot.*expected",
    ),
    "stuff": (lambda x: x.pop("stuff_classes"), "stuff_classes: found None, expected"),
    "number": (lambda x: x.update(stuff_classes=5), "stuff_classes: found 5, expected a list of"),
    "text": (lambda x: x.update(stuff_classes="ab"), "stuff_classes: found 'ab', expected a list"),
    "twice": (
        lambda x: x["images"].append({**x["images"][1], "file_name": "c.png"}),
        "field 'images': found the id 2 twice, expected another id for each image",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_labels_that_do_not_fit(coco, entry, teacher, case):
    change, message = BAD[case]
    teacher["images"] = [dict(image) for image in teacher["images"]]
    teacher["categories"] = [dict(category) for category in teacher["categories"]]
    change(teacher)
    given = entry(coco)
    with pytest.raises(ValueError, match=f"(?s)Dataset 'taught': .*labels.json.*{message}"):
        records(given)


def test_maps_without_names(coco, entry, teacher):
    del teacher["stuff_classes"]
    with pytest.raises(ValueError, match="TEACHER_ROOT: .*stuff_classes: found None, .* names as"):
        records(entry({"images": coco["images"]}))


@pytest.mark.parametrize("size", [None, (4, 4)])
def test_maps_that_are_missing_or_of_another_size(coco, entry, tmp_path, size):
    given, file = entry({"images": coco["images"]}), tmp_path / "teacher/sem_seg_confidence/b.png"
    file.unlink()
    if size:
        save(file, np.zeros(size))
    with pytest.raises(ValueError, match=f"{file}.*{'expected 32x24' if size else 'type'}"):
        records(given)


def test_no_folder_of_maps(coco, entry, teacher, tmp_path):
    given = entry({"images": coco["images"]})
    shutil.rmtree(tmp_path / "teacher/sem_seg")
    with pytest.raises(ValueError, match="'stuff_classes': found it without the folder .*sem_seg,"):
        records(given)
    del teacher["stuff_classes"], teacher["annotations"]
    entry({"images": coco["images"]})
    assert "foreground_file_name" in records(given)[0]
    shutil.rmtree(tmp_path / "teacher/foreground")
    with pytest.raises(ValueError, match="labels.json: found no labels, expected the field"):
        records(given)


def test_objects_that_are_listed_twice(coco, entry, teacher):
    teacher["annotations"].append(dict(teacher["annotations"][0]))
    first, _ = records(entry({"images": coco["images"]}))
    assert len(first["annotations"]) == 2
    assert DATA_REPORT.counts == {SAME_ANNOTATION_TWICE: 1}


def training(entry: dict[str, Any], *tasks: str) -> CfgNode:
    register_datasets([entry])
    cfg = get_multitask_cfg()
    cfg.DATASETS.TRAIN, cfg.MODEL.TASKS = ("taught",), list(tasks)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    return cfg


@pytest.mark.parametrize(("key", "task"), [("sem_seg", "seg"), ("foreground", "foreground")])
def test_confidences_that_leave_no_pixel(coco, entry, tmp_path, key, task):
    for name in ("a", "b"):
        save(tmp_path / f"teacher/{key}_confidence/{name}.png", np.ones((H, W)))
    cfg = training(entry({"images": coco["images"]}), task)
    message = "(?s)'taught': .*none of its maps.*confidence below TEACHER_THRESHOLDS: MAPS of the"
    with pytest.raises(ValueError, match=message):
        get_training_dicts(cfg)


def test_one_class_is_sure(coco, entry, tmp_path):
    """The other one is in the files: they hold class ids."""
    confidence = np.full((H, W), 255)
    confidence[:, 16:] = 0
    for name in ("a", "b"):
        save(tmp_path / f"teacher/sem_seg_confidence/{name}.png", confidence)
    assert len(get_training_dicts(training(entry({"images": coco["images"]}), "seg"))) == 2


def test_confidences_of_16_bits(coco, entry, tmp_path):
    for name in ("a", "b"):
        file = tmp_path / f"teacher/sem_seg_confidence/{name}.png"
        Image.fromarray(np.full((H, W), 200, np.uint16)).save(file)
    cfg = training(entry({"images": coco["images"]}), "seg")
    with pytest.raises(ValueError, match="(?s)none of its maps.*uint16, expected .*8 bits a pixel"):
        get_training_dicts(cfg)


def test_classes_in_another_order_than_those_of_the_test(coco, write_coco, tmp_path):
    """Also if nobody has loaded the test dataset yet; the tasks' own names alone count."""
    write_coco(coco)
    root = {"IMAGE_ROOT": str(tmp_path / "images")}
    for name, classes in (("taught", ["person", "ball"]), ("true", ["ball", "person"])):
        categories = [{"id": i, "name": x} for i, x in enumerate(classes, 7)]
        content = {**coco, "categories": categories}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    register_datasets([{"NAME": "true", "JSON": str(tmp_path / "true.json"), **root}])
    given = {"NAME": "taught", "JSON": str(tmp_path / "taught.json"), **root}
    cfg = training(given, "det")
    cfg.MODEL.CENTER_HEAD.NUM_CLASSES = 2
    cfg.DATASETS.TEST = ("true",)
    with pytest.raises(ValueError, match=r"TEST: thing_classes of dataset 'true'.*\['ball', 'pe"):
        get_training_dicts(cfg)
    cfg.MODEL.TASKS = ["foreground"]
    assert get_training_dicts(cfg)


@pytest.mark.parametrize("root", [[5], [{"a": 1}], [""], [None], ["a", " "]])
def test_folders_without_a_name(coco, entry, root):
    given = entry(coco, TEACHER_ROOT=root)
    with pytest.raises(
        ValueError, match=r"\[0\]: key TEACHER_ROOT: found .*, expected a folder or"
    ):
        register_datasets([given])


def test_no_folder_and_wrong_keys(coco, entry, tmp_path):
    given = entry(coco, TEACHER_ROOT=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="nowhere.*type python tools/label_with_teacher.py"):
        records(given)
    for thresholds in ({"BOXES": 0.5}, {"MAPS": 2}):
        with pytest.raises(ValueError, match=r"\[0\]: key TEACHER_THRESHOLDS: found"):
            register_datasets([{**given, "TEACHER_THRESHOLDS": thresholds}])
    with pytest.raises(ValueError, match="TEACHER_THRESHOLDS without TEACHER_ROOT"):
        register_datasets([{**given, "TEACHER_ROOT": "", "TEACHER_THRESHOLDS": {"MAPS": 0.5}}])


def test_objects_of_an_rcnn_and_evaluation_are_refused(coco, entry):
    records(entry({"images": coco["images"]}))
    cfg = get_multitask_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.TASKS = "MultitaskRCNN", ["det"]
    cfg.DATASETS.TRAIN = ("taught",)
    with pytest.raises(ValueError, match="TEACHER_ROOT: found objects of a teacher"):
        get_training_dicts(cfg)
    with pytest.raises(ValueError, match="DATASETS.TEST: dataset 'taught' has labels of a teacher"):
        build_test_loader(cfg, "taught")
