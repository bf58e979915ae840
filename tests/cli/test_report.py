"""`d2mt report`: an evaluation with a page of its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine_support import write_people
from tool_support import load_command, run_command, small_network


def registered(name: str, json_file: Path) -> list[str]:
    """Options that make a COCO file the only dataset."""
    entry = {"NAME": name, "JSON": str(json_file), "IMAGE_ROOT": str(json_file.parent)}
    return [
        *("DATASETS.REGISTER", str([entry]), "DATASETS.TRAIN", f"('{name}',)"),
        *("DATASETS.TEST", f"('{name}',)", "DATALOADER.NUM_WORKERS", "0"),
    ]


def test_a_page_beside_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, people = small_network(tmp_path), write_people(tmp_path / "people")
    options = registered("report_people", people)
    assert load_command("report").main(["--model", str(path), *options]) == 0
    (tmp_path / "other" / "report.html").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"Error: TEST\.REPORT: no report of .*report\.html'"):
        load_command("report").main(["--model", str(path), *options, "OUTPUT_DIR", "other"])
    folder = tmp_path / "output" / "eval"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h2>Boxes</h2>" in page and "data:image/jpeg" in page
    scores = json.loads((folder / "results.json").read_text())
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert f"| sem_seg | mIoU | {scores['sem_seg']['mIoU']:.1f} |" in text


def test_results_of_an_earlier_evaluation(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    path, people = small_network(tmp_path), write_people(tmp_path / "people")
    command, options = load_command("report"), registered("more_people", people)
    assert command.main(["--model", str(path), *options]) == 0
    first = json.loads(Path("output/eval/results.json").read_text())
    file = "output/eval/inference/more_people/coco_instances_results.json"
    again = ["--results", file, "--config-file", str(tmp_path / "config.yaml"), *options]
    assert command.main([*again, "OUTPUT_DIR", "again"]) == 0
    second = json.loads(Path("again/results.json").read_text())
    assert second == {metric: first[metric] for metric in ("bbox", "keypoints")}
    assert "Calibration" in Path("again/report.md").read_text(encoding="utf-8")
    capsys.readouterr()
    found = json.loads(Path(file).read_text())
    for wrong, message in (
        ({"a": 1}, "found a dict, expected COCO's list of results"),
        ([{**found[0], "image_id": 99}], "entry 0: found image_id 99, expected one of the images"),
        ([{"image_id": 1}], "entry 0: found ['image_id'], expected"),
    ):
        Path("wrong.json").write_text(json.dumps(wrong))
        assert command.main(["--results", "wrong.json", *again[2:]]) != 0
        said = capsys.readouterr().err
        assert "wrong.json: " in said and message in said, said


def test_results_whose_report_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_network(tmp_path)
    options = registered("unwritten_people", write_people(tmp_path / "people"))
    Path("found.json").write_text("[]")
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    words = ["--results", "found.json", "--config-file", str(tmp_path / "config.yaml"), *options]
    with pytest.raises(SystemExit, match="no report of 'unwritten_people' was written"):
        load_command("report").main([*words, "OUTPUT_DIR", "out"])


def test_help(tmp_path: Path) -> None:
    done = run_command("report", tmp_path, "--help")
    assert done.returncode == 0 and "report.html" in done.stdout
