"""tools/compare_relations.py as a user runs it."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import cv2
import numpy as np
import pytest

from bsds_support import halves, write_image
from d2_multitask.data.datasets.bsds500 import Bsds500
from d2_multitask.engine.setup import find_config_file
from support import REPOSITORY
from synthetic.textures import write_synthetic_textures
from tool_support import SMALL_MAE, load_tool, save_small_mae

RIDGES = ("ridge", "ridge (untrained)", "ridge (early)")
EARLY = "model_0000399.pth"
SMALL = (*SMALL_MAE, "MODEL.MAE.PATCH_SIZE", "16")


@pytest.fixture(scope="module")
def tool():
    return load_tool("compare_relations.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("relations")
    write_synthetic_textures(root, "other_palette", "test", 4)
    save_small_mae(root / "mae.pth", "quick/mae_textures.yaml", SMALL)
    shutil.copy(root / "mae.pth", root / EARLY)
    return root


def words(folder, output, *more):
    drawn = folder / "synthetic_textures" / "other_palette" / "test"
    return [
        *("--config-file", "quick/mae_textures.yaml", "--images", str(drawn / "images")),
        *("--masks", str(drawn / "masks"), "--output", str(folder / output), "--passes", "40"),
        *("--relations", "distance", "color", "ridge"),
        *("--baselines", "distance / louvain", "centre disc", *more, *SMALL),
        *("MODEL.WEIGHTS", str(folder / "mae.pth")),
    ]


@pytest.fixture(scope="module")
def compared(folder, tool):
    """In a process of its own it takes six seconds more, to import PyTorch."""
    assert tool.main(words(folder, "first", "--choose", "0", "2", "--report", "2", "4")) == 0
    return folder / "first"


def test_table_of_all_relations_divisions_and_controls(compared):
    text = (compared / "table.md").read_text()
    for relation in ("distance", "color", *RIDGES):
        for division in ("louvain", "grown", "normalised_cut"):
            assert text.count(f"| {relation} / {division} ") == 3
    assert "2 images; mean ± standard error" in text and "of 2 other images" in text
    assert "random weights of the seed 1; (early): " in text and "model_0000399.pth." in text
    assert "| against itself, untrained | against itself, early |" in " ".join(text.split())
    content = json.loads((compared / "table.json").read_text())
    assert content["num_images"] == 2
    assert len(content["results"]["ridge / louvain"]["images"]["patch_iou"]) == 2
    assert cv2.imread(str(compared / "table.png")) is not None


def test_methods_of_another_study(compared, folder, tool):
    more = ("--methods", str(compared / "methods.json"), "--report", "2", "4")
    assert tool.main(words(folder, "second", *more)) == 0
    first, second = (
        json.loads((folder / name / "table.json").read_text())["results"]
        for name in ("first", "second")
    )
    assert first == second


def test_a_part_of_another_studys_methods(compared, folder, tool):
    more = ("--methods", str(compared / "methods.json"), "--report", "2", "4")
    assert tool.main(words(folder, "part", "--divisions", "louvain", *more)) == 0
    found = json.loads((folder / "part" / "table.json").read_text())["results"]
    assert set(found) == {
        *("whole image", "centre disc", "mean mask"),
        *(f"{relation} / louvain" for relation in ("distance", "color", *RIDGES)),
    }


def test_methods_without_the_early_weights_or_the_mean_mask(compared, folder, tool, capsys):
    alone = folder / "alone"
    alone.mkdir()
    shutil.copy(folder / "mae.pth", alone)
    shutil.copy(compared / "methods.json", alone)
    more = ("--methods", str(alone / "methods.json"), "--report", "2", "3")
    command = [*words(folder, "alone/out", *more)[:-1], str(alone / "mae.pth")]
    assert tool.main(command) == 2
    assert "--methods: found no" in capsys.readouterr().err
    shutil.copy(compared / "mean_mask.npy", alone)
    assert tool.main(command) == 0
    printed = capsys.readouterr().out
    assert "ridge (untrained) / louvain" in printed and "(early)" not in printed


def test_nothing_is_chosen_on_what_is_reported(folder, tool, capsys):
    assert tool.main(words(folder, "third", "--choose", "0", "3", "--report", "2", "4")) == 2
    assert "found 1 images in both, such as" in capsys.readouterr().err
    assert tool.main(words(folder, "third", "--choose", "0", "9")) == 2
    assert "--choose: found 0 9, expected START < STOP of the 4 images" in capsys.readouterr().err
    drawn = folder / "synthetic_textures" / "other_palette" / "test"
    again = ("--choose-images", str(drawn / ".." / "test" / "images"))
    assert tool.main(words(folder, "third", *again)) == 2
    assert "found 4 images in both, such as" in capsys.readouterr().err


def test_parts_of_a_folder_have_names_of_their_own(folder, tool, tmp_path):
    image = next((folder / "synthetic_textures/other_palette/test/images").iterdir())
    for name in ("a.jpg", "a.png"):
        shutil.copy(image, tmp_path / name)
    parts = [tool.labelled(tmp_path, tmp_path, part, "--choose") for part in ((0, 1), (1, 2))]
    assert [image.name for part in parts for image in part] == ["a.jpg", "a.png"]


def test_other_masks_and_other_networks_need_another_folder(compared, folder, tool, capsys):
    parts = ("--choose", "0", "2", "--report", "2", "4")
    other = folder / "other_masks"
    if not other.exists():
        shutil.copytree(folder / "synthetic_textures/other_palette/test/masks", other)
    for more, message in (
        (("--masks", str(other)), f"masks: found '{folder}"),
        (("--choose-masks", str(other)), "choose_masks: found None, now "),
        (("INPUT.FORMAT", "BGR"), "INPUT.FORMAT: found 'RGB', now 'BGR'"),
        (("MODEL.PIXEL_STD", "[1, 1, 1]"), "MODEL.PIXEL_STD: found"),
        (("MODEL.MAE.POSITION_RESIZE", "sincos"), "MODEL.MAE.POSITION_RESIZE: found 'bicubic'"),
    ):
        assert tool.main(words(folder, "first", *parts, *more)) == 2
        assert message in capsys.readouterr().err


def test_corrected_masks_of_choosing_need_another_folder(compared, folder, tool, capsys):
    mask = min((folder / "synthetic_textures/other_palette/test/masks").iterdir())
    before = mask.read_bytes()
    cv2.imwrite(str(mask), np.zeros((64, 64), np.uint8))
    try:
        assert tool.main(words(folder, "first", "--choose", "0", "2", "--report", "2", "4")) == 2
    finally:
        mask.write_bytes(before)
    assert "chosen_masks_crc32: found" in capsys.readouterr().err


def test_cells_of_half_a_patch(folder, tool):
    """Everything that a study asks about patches is asked about cells."""
    more = ("--choose", "0", "1", "--report", "2", "3", "--shifts", "2")
    assert tool.main(words(folder, "cells", *more)) == 0
    with np.load(next((folder / "cells" / "relations").iterdir())) as kept:
        assert kept["ridge"].shape == (64, 64)  # of 4x4 patches
    record = json.loads(next((folder / "cells" / "report").iterdir()).read_text())
    assert set(record["found"]["metrics"]) >= {"centre disc", "ridge / grown", "color / louvain"}


def test_segments_against_people(folder, tool, monkeypatch, capsys):
    for name in ("1", "2"):
        write_image(folder, name, [halves(64, 64, 32)], "val")
    drawn = Bsds500("drawn", str(folder / "BSDS500"), "val")
    monkeypatch.setattr(tool, "load_partitioned", lambda name: drawn())
    words = ["--config-file", "quick/mae_textures.yaml", "--dataset", "drawn", "--choose", "0", "1"]
    words += ["--output", str(folder / "people"), "--size", "64", "96", "--passes", "40"]
    words += ["--relations", "distance", "ridge", "--divisions", "louvain"]
    words += ["--report", "1", "2"]  # the default baselines, without the relation color
    assert tool.main([*words, *SMALL, "MODEL.WEIGHTS", str(folder / "mae.pth")]) == 0
    assert "ridge / louvain: not distinguishable from an untrained" in capsys.readouterr().out
    text = (folder / "people" / "table.md").read_text()
    assert "## 64 pixels, on patches" in text and "## 96 pixels, after refinement" in text
    assert "1 images; scale and locality of each method were chosen on 1 other images" in text
    results = json.loads((folder / "people" / "table.json").read_text())["results"]
    assert results["96"]["refined"]["scores"]["regular grid"]["covering-ODS"] == 50


@pytest.mark.parametrize("page", ["segments.md", "results.md"])
def test_documented_commands(page, tool):
    text = (REPOSITORY / "docs" / page).read_text()
    commands = re.findall(r"^python tools/compare_relations\.py (.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        args = tool.parse_args(shlex.split(command))
        assert find_config_file(args.config_file)


def test_arguments_that_are_missing(tool, capsys):
    with pytest.raises(SystemExit) as stop:
        tool.main(["--images", "x"])
    assert stop.value.code == 2
    assert "give --config-file, --masks" in capsys.readouterr().err
    for words, message in (
        (["--size", "64", "96"], "--size: found 2 sizes, expected one without --dataset"),
        (["--dataset", "bsds500_val"], "--dataset: found --images, --masks with it"),
        (["--num-images", "0"], "--num-images: found 0, expected >= 1"),
        (["--choose-dataset", "x"], "--choose-dataset: expected --dataset with it"),
        (["--methods", "x", "--choose", "0", "1"], "--methods: found --choose with it"),
        (["--methods", "x", "--choose-masks", "x"], "--methods: found --choose-masks with it"),
    ):
        with pytest.raises(SystemExit):
            tool.main(["--config-file", "x", "--images", "x", "--masks", "x", *words])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(["--config-file", "x", "--dataset", "x", "--choose-images", "x"])
    assert "--dataset: found --choose-images with it" in capsys.readouterr().err
