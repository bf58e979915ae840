"""`d2mt report`: an evaluation with a page of its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine_support import write_people
from tool_support import load_command, run_command, small_network


def test_a_page_beside_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, people = small_network(tmp_path), write_people(tmp_path / "people")
    entry = {"NAME": "report_people", "JSON": str(people), "IMAGE_ROOT": str(people.parent)}
    options = [
        *("DATASETS.REGISTER", str([entry]), "DATASETS.TRAIN", "('report_people',)"),
        *("DATASETS.TEST", "('report_people',)", "DATALOADER.NUM_WORKERS", "0"),
    ]
    assert load_command("report").main(["--model", str(path), *options]) == 0
    folder = tmp_path / "output" / "eval"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h2>Boxes</h2>" in page and "data:image/jpeg" in page
    scores = json.loads((folder / "results.json").read_text())
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert f"| sem_seg | mIoU | {scores['sem_seg']['mIoU']:.1f} |" in text


def test_help(tmp_path: Path) -> None:
    done = run_command("report", tmp_path, "--help")
    assert done.returncode == 0 and "report.html" in done.stdout
