from __future__ import annotations

from pathlib import Path

import pytest

from d2_multitask.cli.finished import FINISHED, Finished

SETTINGS = {"--tasks": ("det",), "weights": None}


@pytest.fixture
def image(tmp_path) -> str:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12")
    (tmp_path / "a.png").write_bytes(b"overlay")
    return str(path)


def noted(folder: Path, image: str, rank: int = 0) -> None:
    finished = Finished(folder, SETTINGS, rank)
    finished.add(image, {"files": ["a.png"], "objects": 3})
    finished.close()


def test_what_is_finished_is_known_to_later_calls(tmp_path, image):
    noted(tmp_path, image, rank=1)
    main = Finished(tmp_path, SETTINGS)
    assert main.get(image)["objects"] == 3
    assert main.get("other.jpg") is None
    main.merge()
    assert [path.name for path in tmp_path.glob("*.jsonl")] == [FINISHED]
    assert Finished(tmp_path, SETTINGS).get(image)["objects"] == 3


def test_other_settings_another_image_and_a_missing_file_are_done_again(tmp_path, image):
    noted(tmp_path, image)
    assert Finished(tmp_path, {**SETTINGS, "weights": [1, 2]}).get(image) is None
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    assert Finished(tmp_path, SETTINGS).get(image) is None
    (tmp_path / "b.png").rename(tmp_path / "a.png")
    assert Finished(tmp_path, SETTINGS).get(image) is not None
    Path(image).write_bytes(b"123")
    assert Finished(tmp_path, SETTINGS).get(image) is None


def test_a_process_that_was_killed_leaves_a_line_unfinished(tmp_path, image):
    noted(tmp_path, image)
    part = tmp_path / "finished.0.jsonl"
    part.write_text(part.read_text() + '{"path": "b.jpg", "sta')
    noted(tmp_path, image)
    finished = Finished(tmp_path, SETTINGS)
    assert finished.get(image) and finished.get("b.jpg") is None
