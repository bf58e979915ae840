"""`d2mt check`: the checks before a training, without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine_support import write_people
from tool_support import load_command, small_network

CONFIG = """
_BASE_: "{config}"
DATASETS:
  REGISTER:
    - {{NAME: "{name}", JSON: "{json_file}", IMAGE_ROOT: "{root}"}}
  TRAIN: ("{name}",)
  TEST: ("{name}",)
"""


@pytest.fixture
def command():
    return load_command("check")


def write_config(folder: Path, name: str, json_file: Path) -> str:
    small_network(folder)
    base = folder / "config.yaml"
    path = folder / "mine.yaml"
    path.write_text(
        CONFIG.format(config=base, name=name, json_file=json_file, root=json_file.parent)
    )
    return str(path)


def test_a_config_that_is_ready(command, tmp_path: Path, capsys, caplog) -> None:
    config = write_config(tmp_path, "check_ready", write_people(tmp_path / "people"))
    caplog.set_level("INFO")
    assert command.main(["--config-file", config]) == 0
    assert capsys.readouterr().out.endswith("A training can start.\n")
    assert "Dataset check_ready: 4 images" in caplog.text
    assert "4 of 4 images are used for training" in caplog.text


def test_every_mistake_is_said(command, tmp_path: Path, capsys) -> None:
    json_file = write_people(tmp_path / "people")
    content = json.loads(json_file.read_text())
    content["categories"][0]["keypoints"] = [f"point {i}" for i in range(17)]
    json_file.write_text(json.dumps(content))
    config = write_config(tmp_path, "check_wrong", json_file)
    options = ["DATASETS.TEST", "('check_wrong', 'check_absent')", "SOLVER.OPTIMIZER", "MAGIC"]
    assert command.main(["--config-file", config, *options]) == 1
    printed = capsys.readouterr().out.splitlines()
    errors = [line for line in printed if line.startswith("Error: ")]
    assert errors[0].startswith("Error: MODEL and SOLVER: SOLVER.OPTIMIZER: found 'MAGIC'")
    assert any("found 'check_absent', expected a registered dataset" in line for line in errors)
    assert printed[-1] == f"{len(errors)} mistakes"


def test_the_config_of_a_checkpoint(command, tmp_path: Path, capsys) -> None:
    """Its datasets are not here."""
    assert command.main(["--model", str(small_network(tmp_path))]) == 1
    assert "nobody_registered_this" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param([], "nothing to check", id="nothing"),
        pytest.param(["--config-file", "absent.yaml"], "no config file 'absent.yaml'", id="absent"),
        pytest.param(
            ["--config-file", "quick/mcn_det.yaml", "MODEL.TASKZ", "1"], "did you mean", id="key"
        ),
    ],
)
def test_what_cannot_be_read(command, capsys, words, message) -> None:
    try:
        code = command.main(words)
    except SystemExit as end:
        code = end.code
    assert code == 2 and message in capsys.readouterr().err
