"""``MODEL.TEACHERS``: what fits, what does not, and a training that stops and goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from d2_multitask.checkpoint import read_description
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.loader import get_training_dicts
from d2_multitask.engine.teachers import _check_config, add_teachers
from d2_multitask.engine.trainer import MultitaskTrainer
from engine_support import assert_same, registered_people, tiny_cfg


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def people(folder):
    with registered_people(folder / "people") as name:
        yield name


@pytest.fixture(scope="module")
def boxes(people, folder):
    """The same images with boxes alone."""
    content = json.loads((folder / "people" / "people.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"], annotation["keypoints"], annotation["num_keypoints"]
    (folder / "boxes.json").write_text(json.dumps(content))
    register_coco_format("boxes_of_teachers", folder / "boxes.json", folder / "people")
    yield "boxes_of_teachers"
    DatasetCatalog.remove("boxes_of_teachers")
    MetadataCatalog.remove("boxes_of_teachers")


@pytest.fixture(scope="module")
def images(people, folder):
    """The same images without any label."""
    content = json.loads((folder / "people" / "people.json").read_text())
    (folder / "images.json").write_text(json.dumps({"images": content["images"]}))
    register_coco_format("images_of_teachers", folder / "images.json", folder / "people")
    yield "images_of_teachers"
    DatasetCatalog.remove("images_of_teachers")
    MetadataCatalog.remove("images_of_teachers")


@pytest.fixture(scope="module")
def weights(people, folder) -> str:
    """A network of all three tasks, trained for three iterations."""
    train(tiny_cfg(people, folder / "teacher", DATASETS__TEST=()))
    return str(folder / "teacher" / "model_final.pth")


def train(cfg, resume: bool = False) -> MultitaskTrainer:
    torch.manual_seed(cfg.SEED)
    trainer = MultitaskTrainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def sums_of_losses(trainer: MultitaskTrainer) -> dict[str, float]:
    histories = trainer.storage.histories()
    return {
        key: sum(value for value, _ in history.values())
        for key, history in histories.items()
        if key.startswith("loss_")
    }


def student(people: str, folder: Path, *entries: dict, **overrides):
    cfg = tiny_cfg(people, folder, DATASETS__TEST=(), **overrides)
    cfg.MODEL.TEACHERS = list(entries)
    return cfg


def test_a_resumed_training_ends_with_the_same_numbers(boxes, tmp_path, weights):
    """No label of two tasks is there. The checkpoint has neither teachers nor their paths."""
    entry = {"WEIGHTS": weights, "WEIGHT": 0.5, "TASKS": ["seg", "pose"]}
    states = []
    for name, stops in (("whole", [4]), ("parts", [2, 4])):
        for resume, end in enumerate(stops):
            cfg = student(boxes, tmp_path / name, entry, SOLVER__MAX_ITER=end)
            cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
            cfg.SOLVER.EMA.ENABLED = True
            trainer = train(cfg, resume=bool(resume))
        states.append(torch.load(tmp_path / name / "model_final.pth", weights_only=True))
    taught = trainer.storage.history("loss_seg_teacher").values()
    assert taught and all(value > 0 for value, _ in taught)
    assert "TEACHERS: []" in read_description(str(tmp_path / "whole/model_final.pth")).config
    assert set(states[0]["model"]) == set(trainer.model.state_dict())
    for key in ("model", "ema"):
        assert_same(states[1][key], states[0][key])


def test_images_without_any_label_are_learned_from_teachers_alone(images, tmp_path, weights):
    entry = {"WEIGHTS": weights, "TASKS": ["seg", "det", "pose"]}
    trainer = train(student(images, tmp_path, entry, DATALOADER__FILTER_EMPTY_ANNOTATIONS=True))
    losses = sums_of_losses(trainer)
    assert {key for key, value in losses.items() if value} == {
        f"loss_{task}_teacher" for task in ("seg", "center", "det", "pose")
    }


def test_images_without_any_label_beside_labelled_ones(images, boxes, tmp_path, weights):
    cfg = student(boxes, tmp_path, {"WEIGHTS": weights}, MODEL__TASKS=["det"])
    cfg.DATASETS.TRAIN = (boxes, images)
    assert len(get_training_dicts(cfg)) == 8
    losses = sums_of_losses(train(cfg))
    assert losses["loss_center_teacher"] > 0 and losses["loss_center_heatmap"] > 0
    cfg.MODEL.TEACHERS = []
    assert len(get_training_dicts(cfg)) == 4


def test_tasks_of_an_entry(people, tmp_path, weights):
    model = build_model(student(people, tmp_path))
    add_teachers(student(people, tmp_path), model)
    assert model.teachers is None
    for entry, tasks in (
        ({}, {"seg", "center", "det", "pose"}),
        ({"TASKS": ["seg"]}, {"seg"}),
        ({"TASKS": ["pose"]}, {"center", "pose"}),
    ):
        add_teachers(student(people, tmp_path, {"WEIGHTS": weights, **entry}), model)
        (teacher,) = model.teachers._teachers
        assert set(teacher.tasks) == set(teacher.network.heads) == tasks


@pytest.mark.parametrize(
    ("entry", "keys", "message"),
    [
        ("seg.pth", {}, r"TEACHERS\[0\]: found 'seg.pth', expected the keys"),
        ({"WEIGHT": 1}, {}, r"TEACHERS\[0\]: WEIGHTS: found nothing"),
        ({"WEIGHTS": "W", "TASK": []}, {}, r"found key 'TASK', expected some of"),
        ({"WEIGHTS": "W", "TASKS": "seg"}, {}, "TASKS: found 'seg', expected a list"),
        ({"WEIGHTS": "W", "WEIGHT": 0}, {}, "WEIGHT: found 0, expected a number above 0"),
        ({"WEIGHTS": "no.pth"}, {}, r"TEACHERS\[0\]: .*no.pth"),
        ({"WEIGHTS": "W", "CONFIG": "no.yaml"}, {}, r"TEACHERS\[0\]: .*no.yaml"),
        ({"WEIGHTS": "W", "TASKS": ["foreground"]}, {}, r"TASKS: found \['foreground'\], expected"),
        (
            {"WEIGHTS": "W"},
            {"MODEL__POSE_HEAD__NUM_KEYPOINTS": 5},
            r"TEACHERS\[0\]: MODEL.POSE_HEAD.NUM_KEYPOINTS: found 17, expected 5",
        ),
        (
            {"WEIGHTS": "W"},
            {"MODEL__CENTER_HEAD__NUM_CLASSES": 3},
            "CENTER_HEAD.NUM_CLASSES: found 1, expected 3",
        ),
        (
            {"WEIGHTS": "W"},
            {"MODEL__SEM_SEG_HEAD__NUM_CLASSES": 3},
            "SEM_SEG_HEAD.NUM_CLASSES: found 2, expected 3",
        ),
        ({"WEIGHTS": "W"}, {"INPUT__FORMAT": "L"}, "INPUT.FORMAT: found 'BGR', expected"),
    ],
)
def test_entries_that_do_not_fit(people, tmp_path, weights, entry, keys, message):
    model = build_model(student(people, tmp_path, **keys))
    if isinstance(entry, dict) and entry.get("WEIGHTS") == "W":
        entry = {**entry, "WEIGHTS": weights}
    with pytest.raises(ValueError, match=message):
        add_teachers(student(people, tmp_path, entry, **keys), model)


@pytest.mark.parametrize(
    ("removed", "tasks", "message"),
    [
        ("d2_multitask", ["seg"], r"whose network it is: MODEL.TEACHERS\[0\].CONFIG$"),
        ("model", ["seg"], r"name them in MODEL.TEACHERS\[0\].WEIGHTS, or .*\[0\].CONFIG$"),
        ("", ["foreground"], r"\['seg', 'det', 'pose'\], expected .* trained: foreground$"),
        ("", ["boundary"], "network that is trained: it has none$"),
    ],
)
def test_advice_names_the_entry(people, tmp_path, weights, removed, tasks, message):
    """Not the end of the command, which is for the weights of the network that is trained."""
    content = torch.load(weights, weights_only=False)
    if removed == "model":
        del content["model"]["heads.seg.sem_seg.1.bias"]
    else:
        content.pop(removed, None)
    torch.save(content, tmp_path / "own.pth")
    entry = {"WEIGHTS": str(tmp_path / "own.pth")}
    cfg = student(people, tmp_path, entry, MODEL__TASKS=tasks)
    with pytest.raises(ValueError, match=message) as error:
        add_teachers(cfg, build_model(cfg))
    assert "command" not in str(error.value) and "--config-file" not in str(error.value)


def test_classes_of_parts_have_to_be_as_many(people, tmp_path):
    cfg = student(people, tmp_path, MODEL__TASKS=["parts"], MODEL__PARTS_HEAD__NUM_CLASSES=5)
    own = student(people, tmp_path, MODEL__TASKS=["parts"])
    with pytest.raises(ValueError, match="PARTS_HEAD.NUM_CLASSES: found 7, expected 5"):
        _check_config(cfg, own, build_model(cfg), ["parts"])


def test_what_the_teachers_config_says_of_other_tasks_does_not_count(people, tmp_path, weights):
    content = torch.load(weights, weights_only=False)
    description = content["d2_multitask"]
    for key, value in (("FREEZE: []", "FREEZE: [heads.det]"), ("  TASKS: []", "  TASKS: [pose]")):
        assert description.count(key) == 1
        description = description.replace(key, value)
    torch.save({**content, "d2_multitask": description}, tmp_path / "own.pth")
    cfg = student(people, tmp_path, {"WEIGHTS": str(tmp_path / "own.pth"), "TASKS": ["seg"]})
    model = build_model(cfg)
    add_teachers(cfg, model)
    assert model.teachers._teachers[0].tasks == ("seg",)


def test_other_names_are_said(people, tmp_path, weights, caplog):
    content = torch.load(weights, weights_only=False)
    content["d2_multitask"] = content["d2_multitask"].replace('["person"]', '["dog"]')
    torch.save(content, tmp_path / "dog.pth")
    for file, said in ((weights, 0), (str(tmp_path / "dog.pth"), 1)):
        cfg = student(people, tmp_path, {"WEIGHTS": file, "TASKS": ["det"]})
        add_teachers(cfg, build_model(cfg))
        assert caplog.text.count("thing_classes: found ['dog'], taken for the ['person']") == said


def test_networks_that_do_not_fit(people, tmp_path, weights):
    content = torch.load(weights, weights_only=False)
    content["model"]["heads.seg.sem_seg.1.bias"][0] = float("nan")
    broken = str(tmp_path / "broken.pth")
    torch.save(content, broken)
    cfg = student(people, tmp_path, {"WEIGHTS": broken})
    model = build_model(cfg)
    with pytest.raises(ValueError, match=r"\[0\]: task 'seg': found NaN .* in its 'sem_seg'"):
        add_teachers(cfg, model)
    model.heads["det"].stride = 8
    with pytest.raises(ValueError, match="'det': found predictions of stride 4, expected 8"):
        add_teachers(student(people, tmp_path, {"WEIGHTS": weights}), model)
    with pytest.raises(ValueError, match=r"MODEL.TEACHERS: found 1 with MODEL.META_ARCHITECTURE"):
        add_teachers(cfg, torch.nn.Linear(1, 1))
