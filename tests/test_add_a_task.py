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

import numpy as np
import pytest
from PIL import Image

from support import REPOSITORY

PAGE = REPOSITORY / "docs" / "add_a_task.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package, its tools and configs, with the page's files added."""
    for folder in ("d2_multitask", "tools", "configs"):
        shutil.copytree(
            REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    (code,), (config,) = blocks("python"), blocks("yaml")
    (tmp_path / "d2_multitask" / "heads" / "depth.py").write_text(code)
    (tmp_path / "configs" / "depth.yaml").write_text(config)
    return tmp_path


def test_page_names_the_file_that_it_asks_for() -> None:
    for name in ("d2_multitask/heads/depth.py", "configs/depth.yaml"):
        assert f"`{name}`" in PAGE.read_text()


def test_the_page_leads_to_a_head_that_keeps_the_contract(copy: Path) -> None:
    """The contract's tests find the new head by themselves."""
    for name in ("support.py", "conftest.py", "heads/test_contract.py"):
        (copy / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "tests" / name, copy / "tests" / name)
    support = (copy / "tests" / "support.py").read_text()
    for old, new in (
        ('    "foreground",\n)', '    "foreground",\n    "depth",\n)'),
        (
            '"foreground": sem_seg.clone(),',
            '"foreground": sem_seg.clone(), "depth": 2000 * sem_seg,',
        ),
    ):
        assert old in support
        support = support.replace(old, new)
    (copy / "tests" / "support.py").write_text(support)
    shutil.copy(REPOSITORY / "pyproject.toml", copy)
    command = [sys.executable, "-m", "pytest", "-q", "tests/heads/test_contract.py", "-k", "depth"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"1[5-9] passed", run.stdout), run.stdout


def write_rooms(folder: Path) -> None:
    """Images whose brightness grows with the depth, 1 m to 5 m; one corner is not known."""
    (folder / "images").mkdir(parents=True)
    (folder / "depth").mkdir()
    for split, names in (("train", "abcd"), ("val", "ef")):
        for index, name in enumerate(names):
            depth = np.linspace(1000, 5000, 64 * 96).reshape(64, 96) + index
            image = np.repeat((depth[:, :, None] / 25).astype(np.uint8), 3, axis=2)
            depth[:8, :8] = 0
            Image.fromarray(image).save(folder / "images" / f"{name}.png")
            Image.fromarray(depth.astype(np.uint16)).save(folder / "depth" / f"{name}.png")
        images = [
            {"id": i, "file_name": f"{name}.png", "height": 64, "width": 96}
            for i, name in enumerate(names)
        ]
        (folder / f"{split}.json").write_text(json.dumps({"images": images}))


def test_the_pages_commands_train_and_evaluate_it(copy: Path) -> None:
    write_rooms(copy / "datasets" / "rooms")
    train, gradients = blocks("sh")
    small = "SOLVER.MAX_ITER 4 SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0".split()
    run(copy, train, *small)
    output = copy / "output" / "depth"
    metrics = [json.loads(x) for x in (output / "metrics.json").read_text().splitlines()]
    assert metrics[0]["total_loss"] > 0
    results = json.loads((output / "results.json").read_text())
    assert 0 < results["depth"]["relative-error"] < 100
    assert "| loss_depth " in run(copy, gradients, *small)


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
