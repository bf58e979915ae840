"""docs/add_a_task.md, followed literally in a copy of the repository."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import REPOSITORY

PAGE = REPOSITORY / "docs" / "add_a_task.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package, its tools and configs, with the page's file added."""
    for folder in ("d2_multitask", "tools", "configs"):
        shutil.copytree(
            REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    (code,) = blocks("python")
    (tmp_path / "d2_multitask" / "heads" / "count.py").write_text(code)
    return tmp_path


def test_page_names_the_file_that_it_asks_for() -> None:
    assert "`d2_multitask/heads/count.py`" in PAGE.read_text()


def test_the_page_leads_to_a_head_that_keeps_the_contract(copy: Path) -> None:
    """The contract's tests find the new head by themselves."""
    for name in ("support.py", "conftest.py", "heads/test_contract.py"):
        (copy / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "tests" / name, copy / "tests" / name)
    shutil.copy(REPOSITORY / "pyproject.toml", copy)
    command = [sys.executable, "-m", "pytest", "-q", "tests/heads/test_contract.py", "-k", "count"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"1[5-9] passed", run.stdout), run.stdout


def test_the_pages_commands_train_it_and_tell_whether_it_is_heard(copy: Path) -> None:
    from synthetic.people.writer import write_synthetic_people

    for split, count in (("train", 4), ("val", 2)):
        write_synthetic_people(copy / "datasets", split, count, seed=0)
    train, gradients = blocks("sh")
    small = "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0".split()
    run(copy, train, *small)
    output = copy / "output" / "quick" / "mcn_det"
    metrics = [json.loads(x) for x in (output / "metrics.json").read_text().splitlines()]
    assert metrics[0]["loss_count"] > 0
    assert "bbox" in json.loads((output / "results.json").read_text())
    assert "| loss_count " in run(copy, gradients, *small)


def run(copy: Path, line: str, *words: str) -> str:
    """Run a command of the page; returns what it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "DETECTRON2_DATASETS": str(copy / "datasets"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *shlex.split(line)[1:], *words]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
