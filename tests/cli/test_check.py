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


def test_a_negative_weight(command, tmp_path: Path, capsys) -> None:
    config = write_config(tmp_path, "check_weight", write_people(tmp_path / "people"))
    assert command.main(["--config-file", config, "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", "-1.0"]) == 1
    assert "SEM_SEG_HEAD.LOSS_WEIGHT: found -1.0, expected 0 or more" in capsys.readouterr().out


def test_json_to_a_folder(command, tmp_path: Path, capsys) -> None:
    assert command.main(["--config-file", "mcn_det.yaml", "--json", str(tmp_path)]) == 2
    assert f"--json: found the folder {tmp_path}, expected a file" in capsys.readouterr().err


def test_every_mistake_is_said(command, tmp_path: Path, capsys) -> None:
    json_file = write_people(tmp_path / "people")
    content = json.loads(json_file.read_text())
    content["categories"][0]["keypoints"] = [f"point {i}" for i in range(17)]
    json_file.write_text(json.dumps(content))
    config = write_config(tmp_path, "check_wrong", json_file)
    options = ["DATASETS.TEST", "('check_wrong', 'check_absent')", "SOLVER.OPTIMIZER", "MAGIC"]
    options += ["LOGGERS", "['x']"]
    assert command.main(["--config-file", config, *options]) == 1
    printed = capsys.readouterr().out.splitlines()
    errors = [line for line in printed if line.startswith("error: ")]
    assert any("LOGGERS: found 'x', expected some of ['mlflow', 'wandb']" in e for e in errors)
    assert any(
        line.startswith("error: start: MODEL and SOLVER: SOLVER.OPTIMIZER: found 'MAGIC'")
        for line in errors
    )
    said = [
        line for line in errors if "found 'check_absent', expected a registered dataset" in line
    ]
    assert len(said) == 1
    assert printed[-1].startswith(f"{len(errors)} errors, ")


def test_a_metric_that_nothing_gives(command, tmp_path: Path, capsys) -> None:
    config = write_config(tmp_path, "check_metric", write_people(tmp_path / "people"))
    options = ["TEST.EVAL_PERIOD", "1", "TEST.BEST_METRIC", "bbox/Ap"]
    assert command.main(["--config-file", config, *options]) == 1
    assert (
        "start: best checkpoint: TEST.BEST_METRIC: found 'bbox/Ap', which no"
        in capsys.readouterr().out
    )
    assert command.main(["--config-file", config, *options[:3], "bbox/AP"]) == 0
    assert command.main(["--config-file", config, "SOLVER.LOSS_BALANCING", "magic"]) == 1
    assert "SOLVER.LOSS_BALANCING: found 'magic', expected one of" in capsys.readouterr().out


def test_warnings_fail_if_asked(command, tmp_path: Path, capsys) -> None:
    """A second class that nothing shows; and the report for CI."""
    json_file = write_people(tmp_path / "people")
    content = json.loads(json_file.read_text())
    content["categories"].append({"id": 2, "name": "dog"})
    json_file.write_text(json.dumps(content))
    config = write_config(tmp_path, "check_warned", json_file)
    report = tmp_path / "findings.json"
    options = ["MODEL.CENTER_HEAD.NUM_CLASSES", "2", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]
    words = ["--config-file", config, "--json", str(report)]
    assert command.main([*words, *options]) == 0
    assert command.main([*words, "--strict", *options]) == 1
    printed = capsys.readouterr().out
    assert "warning: balance/empty-classes: check_warned (1 of 2): " in printed
    assert "  To mend it:\n    python -c" in printed
    content = json.loads(report.read_text())
    assert content["counts"]["error"] == 0 and content["counts"]["warning"] >= 1
    (finding,) = [f for f in content["findings"] if f["check"] == "balance/empty-classes"]
    assert finding["examples"] == ["dog"] and finding["severity"] == "warning"


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
