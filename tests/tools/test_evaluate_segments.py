"""tools/evaluate_segments.py as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from bsds_support import halves, write_ground_truth, write_image
from d2_multitask.data.datasets.bsds500 import Bsds500
from d2_multitask.data.datasets.catalog import register
from support import REPOSITORY
from tool_support import load_tool, run_tool

NAME = "small_bsds"


@pytest.fixture(scope="module")
def tool():
    return load_tool("evaluate_segments.py")


@pytest.fixture
def folder(tmp_path):
    for name, column in (("1", 15), ("2", 10)):
        write_image(tmp_path, name, [halves(column=column)])
    register(NAME, Bsds500(NAME, str(tmp_path / "BSDS500"), "test"))
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def write_maps(folder, level, columns):
    (folder / level).mkdir(exist_ok=True)
    for name, column in zip("12", columns, strict=True):
        pixels = halves(column=column).astype(np.uint8)
        Image.fromarray(pixels).save(folder / level / f"{name}.png")
    return str(folder / level)


def evaluated(tool, folder, *words):
    assert tool.main(["--dataset", NAME, "--output", str(folder / "out"), *words]) == 0
    return json.loads((folder / "out" / "results.json").read_text())


def test_a_folder_a_level(tool, folder, capsys):
    levels = [write_maps(folder, "fine", (15, 15)), write_maps(folder, "coarse", (10, 10))]
    scores = evaluated(tool, folder, "--segments", *levels)
    assert scores["num_images"] == 2 and scores["covering-OIS"] == 100
    # At either level one image is perfect; the other has 300 and 200 of 600, at 2/3 and 3/4.
    first = (300 * (2 / 3) + 300 * (3 / 4)) / 6
    second = (200 * (2 / 3) + 400 * (3 / 4)) / 6
    assert scores["covering-ODS"] == pytest.approx((100 + max(first, second)) / 2)
    assert "covering-ODS" in capsys.readouterr().out


def test_it_continues_and_notices_what_changed(tool, folder, monkeypatch):
    level = write_maps(folder, "fine", (15, 15))
    before = evaluated(tool, folder, "--segments", level)
    monkeypatch.setattr(tool, "read_label_map", None)  # nothing is read again
    assert evaluated(tool, folder, "--segments", level) == before
    monkeypatch.undo()
    write_maps(folder, "fine", (15, 10))
    assert evaluated(tool, folder, "--segments", level)["covering-ODS"] == 100
    truth = Path(tool.load_partitioned(NAME)[1]["partitions_file_name"])
    write_ground_truth(truth, [halves(column=5)])
    os.utime(truth, (1, 1))  # another file, which is older
    assert evaluated(tool, folder, "--segments", level)["covering-ODS"] < 100


def test_grid(tool, folder):
    scores = evaluated(tool, folder, "--grid", "1", "2", "--num-images", "1")
    np.testing.assert_array_equal(tool.grid(2, (2, 4)), [[0, 0, 1, 1], [2, 2, 3, 3]])
    assert scores["covering-ODS"] == 50


def test_regions_of_like_colours(tool, folder):
    for record in tool.load_partitioned(NAME):
        pixels = np.repeat(100 * halves(column=15)[..., None], 3, axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(record["file_name"])
    assert evaluated(tool, folder, "--color-regions", "2", "--num-images", "1")["VI-ODS"] == 0


def test_what_is_wrong_is_said(tool, folder, capsys):
    level = write_maps(folder, "fine", (15, 15))
    words = ["--dataset", NAME, "--output", str(folder / "out")]
    assert tool.main([*words, "--segments", level, str(folder / "none")]) == 2
    assert "none/1.png, nor 1 others of 4; expected segments" in capsys.readouterr().err
    Image.new("L", (31, 20)).save(folder / "fine" / "2.png")
    assert tool.main([*words, "--segments", level]) == 2
    assert "image 2: segments: found shape (20, 31), expected (20, 30)" in capsys.readouterr().err
    assert tool.main([*words, "--grid", "2"]) == 2
    assert "an earlier run had other settings" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main([*words, "--grid", "0"])
    assert "--grid: found 0, expected >= 1" in capsys.readouterr().err


def test_commands_of_the_documentation(tool):
    pages = [REPOSITORY / "tools" / "evaluate_segments.py", *REPOSITORY.glob("docs/*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    commands = re.findall(r"python tools/evaluate_segments\.py (--.*)", text)
    assert len(commands) >= 5
    for command in commands:
        tool.parse_args(shlex.split(command))


def test_two_processes(folder):
    """As a process of its own, on the drawn images."""
    output = folder / "out"
    words = ("--grid", "1", "2", "--num-workers", "2", "--output", output)
    done = run_tool("evaluate_segments.py", folder, *words, datasets=folder)
    assert done.returncode == 0, done.stderr
    assert "covering-ODS" in done.stdout and (output / "images" / "2.npz").is_file()
