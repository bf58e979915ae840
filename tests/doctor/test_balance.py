"""Planted faults of classes and tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog

from d2_multitask.doctor import examine
from doctor_support import Content, check_planted, found, registered, set_config


def add_category(content: Content) -> None:
    content["categories"].append({"id": 5, "name": "dog"})


def boxes_alone(tmp_path: Path, change=None):
    cfg = set_config(tmp_path, change)
    cfg.MODEL.TASKS, cfg.DATASETS.TEST = ["det"], ()
    return cfg


def test_a_class_without_objects(tmp_path: Path) -> None:
    finding = check_planted(boxes_alone(tmp_path, add_category), "balance/empty-classes", "warning")
    assert finding.examples == ["dog"] and (finding.count, finding.total) == (1, 2)


def test_classes_that_a_set_does_not_label(tmp_path: Path) -> None:
    """Of several sets in one network: they are no negatives."""
    cfg = set_config(tmp_path, CLASS_NAMES=["person", "car"])
    cfg.MODEL.TASKS, cfg.DATASETS.TEST = ["det"], ()
    assert found(cfg) == []


@pytest.mark.parametrize(("number", "is_found"), [(1, True), (2, False)])
def test_a_rare_class(tmp_path: Path, number: int, is_found: bool) -> None:
    def change(content: Content) -> None:
        add_category(content)
        for annotation in content["annotations"][:number]:
            annotation["category_id"] = 5
            del annotation["keypoints"]

    cfg = boxes_alone(tmp_path, change)
    if not is_found:
        assert found(cfg) == []
        return
    finding = check_planted(cfg, "balance/imbalance", "warning")
    assert "person has 29 objects, 29 times" in finding.text


def test_a_task_without_labels(tmp_path: Path) -> None:
    def without_keypoints(content: Content) -> None:
        for annotation in content["annotations"]:
            del annotation["keypoints"]

    cfg = set_config(tmp_path, without_keypoints)
    cfg.DATASETS.TEST = ()
    finding = check_planted(cfg, "balance/empty-task", "error")
    assert finding.mend == "MODEL:\n  TASKS: [seg, det]\n"


def test_a_task_that_no_set_evaluates(tmp_path: Path) -> None:
    cfg = set_config(tmp_path, lambda content: [a.pop("keypoints") for a in content["annotations"]])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = cfg.DATASETS.TEST, cfg.DATASETS.TRAIN
    check_planted(cfg, "balance/empty-task", "warning")


def test_a_set_that_cannot_be_read(tmp_path: Path) -> None:
    cfg = set_config(tmp_path)
    (tmp_path / "train" / "people.json").write_text("{")
    finding = check_planted(cfg, "start/dataset", "error", is_mended=False)
    assert "found broken JSON" in finding.text


def test_a_function_that_fails(tmp_path: Path) -> None:
    """Of a user, with an error that is no sentence."""
    cfg = set_config(tmp_path)
    cfg.DATASETS.TEST = ("failing",)
    DatasetCatalog.register("failing", lambda: {}["images"])
    try:
        finding = check_planted(cfg, "start/dataset", "error", is_mended=False)
    finally:
        DatasetCatalog.remove("failing")
    assert finding.text == "KeyError: 'images'"


def test_shards_are_left_to_the_loader(tmp_path: Path) -> None:
    """They hold no labels; to list all their images would read, or fetch, all of them."""
    cfg = set_config(tmp_path)
    cfg.MODEL.TASKS, cfg.DATASETS.TEST = ["reconstruction"], ()
    cfg.DATASETS.REGISTER = [{"NAME": "planted_train", "SHARDS": str(tmp_path / "absent.tar")}]
    assert found(cfg) == []


def test_the_share_of_each_set(tmp_path: Path) -> None:
    cfg = set_config(tmp_path)
    with registered(cfg):
        texts = [f.text for f in examine(cfg) if f.check == "balance/sets"]
    assert texts[0].startswith("30 images, 100% of training, 30 objects, 0 images without objects")
    assert texts[0].endswith("objects with boxes 100%, objects with labelled keypoints 100%")
    assert "of training" not in texts[1]
