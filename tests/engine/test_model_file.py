"""A training's weight file is enough: its config and names come back, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from d2_multitask import register_coco_format
from d2_multitask.checkpoint import Description, read_description
from d2_multitask.engine.model_file import trained_config
from d2_multitask.engine.trained_model import TrainedModel
from d2_multitask.engine.trainer import MultitaskTrainer
from engine_support import tiny_cfg, write_people
from tool_support import small_network


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a short training."""
    folder = tmp_path_factory.mktemp("trained")
    json_file = write_people(folder / "people")
    register_coco_format("people_of_model_file", json_file, folder / "people")
    cfg = tiny_cfg("people_of_model_file", folder / "out", SOLVER__MAX_ITER=1)
    cfg.MODEL.FEATURE_EXTRACTOR.WEIGHTS = "/home/me/features.pth"
    cfg.DATASETS.TEST = ()
    trainer = MultitaskTrainer(cfg)
    trainer._hooks = [hook for hook in trainer._hooks if "Checkpointer" in type(hook).__name__]
    trainer.train()
    return folder / "out" / "model_final.pth"


def test_a_training_writes_its_config_and_names(trained: Path) -> None:
    cfg, names = trained_config(trained)
    assert cfg.MODEL.META_ARCHITECTURE == "MultitaskCenterNet"
    assert cfg.DATASETS.TRAIN == ("people_of_model_file",)
    assert cfg.MODEL.WEIGHTS == str(trained)
    assert names.thing_classes == ["person"]
    assert names.keypoint_names[:2] == ["nose", "left_eye"]
    assert list(names.thing_dataset_id_to_contiguous_id.values()) == [0]
    assert names.stuff_classes == ["background", "person"]


def test_what_belongs_to_the_machine_is_not_in_it(trained: Path) -> None:
    text = read_description(trained).config
    assert str(trained.parent) not in text and "/home/me" not in text
    cfg, _ = trained_config(trained)
    assert cfg.OUTPUT_DIR == "./output"
    assert cfg.MODEL.DEVICE == ("cuda" if torch.cuda.is_available() else "cpu")


def test_options_and_a_config_file_come_first(trained: Path) -> None:
    cfg, _ = trained_config(trained, opts=["OUTPUT_DIR", "mine", "SEED", "9"])
    assert (cfg.OUTPUT_DIR, cfg.SEED) == ("mine", 9)
    cfg, names = trained_config(trained, "quick/mcn_seg.yaml")
    assert cfg.MODEL.TASKS == ["seg"] and names is None
    with pytest.raises(ValueError, match="did you mean SOLVER.MAX_ITER"):
        trained_config(trained, opts=["SOLVER.MAX_ITERS", "3"])


def test_an_exported_network_is_no_weight_file() -> None:
    with pytest.raises(ValueError, match="m.onnx: found the name of an exported network"):
        trained_config("m.onnx")


def test_a_checkpoint_without_config(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "old.pth")
    with pytest.raises(ValueError, match=r"old.pth has no config inside.*--config-file FILE"):
        trained_config(tmp_path / "old.pth")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param("_BASE_: /etc/passwd", "found the key _BASE_", id="base"),
        pytest.param(
            "OUTPUT_DIR: !!python/object/apply:os.mkdir [created]", "not a plain YAML", id="code"
        ),
        pytest.param("MODEL: {TASKZ: [det]}", "unknown config key MODEL.TASKZ", id="key"),
        pytest.param("MODEL: 3", "MODEL", id="type"),
        pytest.param("a: &a [*a, *a]", "not a plain YAML|levels", id="aliases"),
        pytest.param("", "an empty file", id="empty"),
        pytest.param(
            "MODEL: {CENTER_HEAD: {NMS_THRESH_TEST: null}}", "TEST: found nothing", id="null"
        ),
        pytest.param("MODEL: null", "for config key: MODEL$", id="no-node"),
    ],
)
def test_a_hostile_config(tmp_path: Path, monkeypatch, config: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    text = Description(config, {}, "0.1.0").to_json()
    torch.save({"model": {"a": torch.zeros(1)}, "d2_multitask": text}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message) as error:
        trained_config("a.pth")
    assert str(error.value).startswith("a.pth: its config") and "\n" not in str(error.value)
    assert not (tmp_path / "created").exists()


def test_paths_in_a_strangers_config_are_forgotten(tmp_path: Path) -> None:
    config = "OUTPUT_DIR: /x\nMODEL: {WEIGHTS: 'http://a/b', FEATURE_EXTRACTOR: {WEIGHTS: /c}}\n"
    text = json.dumps({"format_version": 1, "config": config})
    torch.save({"model": {"a": torch.zeros(1)}, "d2_multitask": text}, tmp_path / "a.pth")
    cfg, _ = trained_config(tmp_path / "a.pth")
    assert (cfg.OUTPUT_DIR, cfg.MODEL.FEATURE_EXTRACTOR.WEIGHTS) == ("./output", "")
    assert cfg.MODEL.WEIGHTS == str(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("key", "value"),
    [("MODEL.BACKBONE.NAME", "absent"), ("MODEL.FPN.OUT_CHANNELS", "-1")],
)
def test_a_config_of_which_no_network_can_be_built(tmp_path: Path, key: str, value: str) -> None:
    path = small_network(tmp_path)
    with pytest.raises(ValueError, match=r"no network can be built .*model_final.pth"):
        TrainedModel(path, opts=[key, value])
