"""Files are whole or not there."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from d2_multitask.data.whole_files import whole_file, write_json, write_png


def test_writes_and_makes_folders(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"x": [1, 2]})
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"x": [1, 2]}
    pixels = np.arange(300, dtype=np.uint16).reshape(15, 20)
    write_png(tmp_path / "labels.png", pixels)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "labels.png")), pixels)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), whole_file(path) as unfinished:
        unfinished.write_text("half of the n")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_durable_files_are_on_the_disk_before_they_take_the_place(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    with whole_file(tmp_path / "file", durable=True) as unfinished:
        unfinished.write_text("new")
    assert calls == ["fsync", "replace"]
    assert (tmp_path / "file").read_text() == "new"
