from __future__ import annotations

import errno
import logging
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from PIL import Image

from d2_multitask.config import get_multitask_cfg
from d2_multitask.data.mapper import MultitaskDatasetMapper
from d2_multitask.data.whole_files import whole_file
from d2_multitask.engine.setup import (
    check_output_dir,
    ends_in_a_sentence,
    fall_back_to_cpu,
    find_config_file,
    setup,
)
from engine_support import write_people


@pytest.fixture
def loggers():
    """Puts the loggers back that setup changes for good."""
    names = ("detectron2", "fvcore", "d2_multitask")
    before = {
        name: (logger.level, logger.propagate, list(logger.handlers))
        for name in names
        for logger in [logging.getLogger(name)]
    }
    yield
    for name, (level, propagate, handlers) in before.items():
        logger = logging.getLogger(name)
        logger.level, logger.propagate, logger.handlers = level, propagate, handlers


def test_setup_reads_registers_freezes_and_logs(loggers, tmp_path):
    json_file = write_people(tmp_path / "people", num_images=1)
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"""
DATASETS:
  REGISTER:
    - {{NAME: "setup_test", JSON: "{json_file}", IMAGE_ROOT: "{tmp_path}/people"}}
"""
    )
    output = tmp_path / "out"
    args = Namespace(
        config_file=str(config),
        opts=["OUTPUT_DIR", str(output), "MODEL.DEVICE", "cpu", "SEED", "3"],
        eval_only=True,
    )
    try:
        cfg = setup(args)
        logging.getLogger("d2_multitask.anything").info("it is written")
        assert len(DatasetCatalog.get("setup_test")) == 1
    finally:
        DatasetCatalog.remove("setup_test")
        MetadataCatalog.remove("setup_test")
    assert cfg.is_frozen()
    assert cfg.SEED == 3
    assert "setup_test" in (output / "config.yaml").read_text()
    assert "it is written" in (output / "log.txt").read_text()


@pytest.mark.parametrize(
    ("device", "has_gpu", "expected", "warns"),
    [
        ("cuda", False, "cpu", True),
        ("cuda:1", False, "cpu", True),
        ("cuda", True, "cuda", False),
        ("cpu", False, "cpu", False),
        ("mps", False, "mps", False),
    ],
)
def test_device_that_is_not_there(device, has_gpu, expected, warns, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    cfg = get_multitask_cfg()
    cfg.MODEL.DEVICE = device
    warning = fall_back_to_cpu(cfg)
    assert cfg.MODEL.DEVICE == expected
    assert (device in warning) == warns


def test_config_file_is_a_path_or_a_name(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("")
    assert find_config_file(str(path)) == str(path)
    assert find_config_file("quick/mcn_det.yaml").endswith("configs/quick/mcn_det.yaml")
    assert find_config_file("") == ""
    with pytest.raises(ValueError, match=r"no_such\.yaml"):
        find_config_file("no_such.yaml")


def test_the_output_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_output_dir(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/none", "a\0b"])
def test_an_output_folder_that_cannot_be_is_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match=r"OUTPUT_DIR: found .* cannot be written .*expected"):
        check_output_dir(str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "kept"


def test_an_address_is_no_output_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"OUTPUT_DIR: found 's3://bucket/x/', .* as output/x"):
        check_output_dir("s3://bucket/x/")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_is_one_line_and_130(capsys):
    with pytest.raises(SystemExit) as end, ends_in_a_sentence():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err.strip() == "Interrupted."


def test_a_full_disk_names_the_file(tmp_path):
    file = tmp_path / "model_final.pth"
    with pytest.raises(SystemExit, match=r"model_final\.pth: No space left"), ends_in_a_sentence():
        with whole_file(file):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_norm_of_one_value_names_the_keys():
    norm = torch.nn.BatchNorm2d(3)
    with pytest.raises(SystemExit, match=r"SOLVER\.IMS_PER_BATCH"), ends_in_a_sentence():
        norm(torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("size", [None, (2, 2)])
def test_an_image_that_cannot_be_used_is_named(tmp_path, num_workers, size):
    """Also by a worker process, which sends its traceback along."""
    path = tmp_path / "a.png"
    path.touch()
    if size:
        Image.new("RGB", size).save(path)
    record = {"file_name": str(path), "height": 4, "width": 4}
    mapper = MultitaskDatasetMapper(False, augmentations=[])
    loader = build_detection_test_loader([record], mapper=mapper, num_workers=num_workers)
    with pytest.raises(SystemExit) as end, ends_in_a_sentence():
        list(loader)
    assert re.match(r"Error: \S+/a\.png: (found|cannot be read)", end.value.code)
    assert "\n" not in end.value.code


def test_other_errors_keep_their_traceback():
    with pytest.raises(ValueError, match="mine"), ends_in_a_sentence():
        raise ValueError("mine")
