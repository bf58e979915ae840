"""What is left on disk: complete or absent, and a dataset in the end."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from d2_multitask.data.io import read_label_map
from d2_multitask.patch_graph import SegmenterSettings, segment_image
from d2_multitask.segmenting.images import ImageFiles
from d2_multitask.segmenting.output_folder import (
    PICTURES,
    OutputFolder,
    object_annotations,
    segment_annotations,
)
from mae_support import small_mae

SETTINGS = SegmenterSettings(passes=40, foreground="least_border", grow=False)


@pytest.fixture(scope="module")
def result():
    import torch

    torch.manual_seed(1)
    model = small_mae(32).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return segment_image(model, torch.randn(3, 24, 32), SETTINGS, pixels=pixels)


def test_files_of_an_image(tmp_path, result):
    folder = OutputFolder(tmp_path, {"seed": 0})
    assert folder.record("x/a") is None
    picture = np.zeros((5, 5, 3), np.uint8)
    folder.save("x/a", "x/a.jpg", result, {"overlays": picture}, 1.0)
    assert np.array_equal(read_label_map(str(tmp_path / "labels/x/a.png")), result.pixel_labels)
    with np.load(tmp_path / "graphs/x/a.npz") as graph:
        found = [graph[name] for name in ("first", "second", "weight")]
    for array, expected in zip(found, result.graph.edges(), strict=True):
        np.testing.assert_array_equal(array, expected)
    record = folder.record("x/a")
    assert record["file_name"] == "x/a.jpg" and (record["height"], record["width"]) == (30, 40)
    assert record["grid_hw"] == [3, 4] and record["passes"] == result.passes
    assert not list(tmp_path.rglob("*.part"))


def test_datasets_hold_what_is_done(tmp_path, result):
    folder = OutputFolder(tmp_path, {"seed": 0})
    folder.save("b", "b.png", result, {}, 1.0)
    folder.save("a", "a.png", result, {}, 1.0)
    (tmp_path / "records" / "broken.json").write_text('{"file_na')  # as if the disk had been full
    paths = folder.write_datasets(["a", "absent", "broken", "b"])
    assert [path.name for path in paths] == ["segments.json", "objects.json"]
    content = json.loads(paths[0].read_text())
    assert [(i["id"], i["file_name"]) for i in content["images"]] == [(1, "a.png"), (2, "b.png")]
    assert [a["id"] for a in content["annotations"]] == [*range(1, len(content["annotations"]) + 1)]
    for annotation in content["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"])
        assert annotation["area"] == mask.sum() and 0 <= annotation["score"] <= 1
    assert content["categories"] == [{"id": 1, "name": "segment"}]


def test_other_settings_are_refused(tmp_path, result):
    OutputFolder(tmp_path, {"seed": 0, "passes": 9}).save("a", "a.png", result, {}, 1.0)
    OutputFolder(tmp_path, {"seed": 0, "passes": 9})
    OutputFolder(tmp_path, {"seed": 0, "passes": 9, "later": None})
    with pytest.raises(ValueError, match=r"passes: found 9, now 5; pass --overwrite"):
        OutputFolder(tmp_path, {"seed": 0, "passes": 5})
    folder = OutputFolder(tmp_path, {"seed": 0, "passes": 5}, overwrite=True)
    assert folder.record("a") is None


def test_nothing_is_left_of_other_settings(tmp_path, result):
    folder = OutputFolder(tmp_path, {"seed": 0})
    picture = np.zeros((5, 5, 3), np.uint8)
    folder.save("x/a", "x/a.jpg", result, dict.fromkeys(PICTURES, picture), 1.0)
    folder.write_datasets(["x/a"])
    (tmp_path / "strips.png").touch()
    (tmp_path / "labels" / "notes.txt").touch()  # nobody's
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 11
    OutputFolder(tmp_path, {"seed": 1}, overwrite=True)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == ["notes.txt", "settings.json"]


def test_the_same_settings_are_not_written_again(tmp_path):
    """Processes that did would meet in one unfinished file."""
    OutputFolder(tmp_path, {"seed": 0})
    written = (tmp_path / "settings.json").stat().st_ino
    OutputFolder(tmp_path, {"seed": 0})
    assert (tmp_path / "settings.json").stat().st_ino == written


def test_what_has_changed_since_is_missing(tmp_path, result):
    folder = OutputFolder(tmp_path / "out", {})
    for name in ("a.jpg", "a.png", "b.png"):
        (tmp_path / name).touch()
    files = ImageFiles(tmp_path, ["a.jpg", "b.png"])
    folder.save("a", "a.jpg", result, {}, files.modified("a.jpg"))
    folder.save("b", "b.png", result, {}, files.modified("b.png"))
    assert folder.missing(files) == []
    assert folder.missing(ImageFiles(tmp_path, ["a.png", "b.png"])) == [("a.png", "a")]
    os.utime(tmp_path / "b.png", (1, 1))  # another file, which is older
    assert folder.missing(files) == [("a.jpg", "a"), ("b.png", "b")]
    assert folder.record("b") is None  # nor is it in the datasets


def test_pictures_that_are_asked_for_later_are_made(tmp_path, result):
    folder, files = OutputFolder(tmp_path / "out", {}), ImageFiles(tmp_path, ["a.jpg"])
    (tmp_path / "a.jpg").touch()
    folder.save("a", "a.jpg", result, {}, files.modified("a.jpg"))
    assert folder.missing(files) == []
    assert folder.missing(files, ("overlays",)) == [("a.jpg", "a")]


def test_results_of_unknown_settings_are_no_results(tmp_path, result):
    """A folder without results takes any settings: the first ones may have been refused."""
    OutputFolder(tmp_path, {"resolution": 0})
    folder = OutputFolder(tmp_path, {"resolution": 1})
    folder.save("a", "a.jpg", result, {}, 1.0)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="an earlier run had other settings: unknown ones"):
        OutputFolder(tmp_path, {"resolution": 1})
    OutputFolder(tmp_path, {"resolution": 1}, overwrite=True)
    assert folder.record("a") is None


def test_folders_of_earlier_versions_go_on(tmp_path):
    (tmp_path / "settings.json").write_text('{"seed": 0, "overlap": 0.5, "power": 1.0}')
    OutputFolder(tmp_path, {"seed": 0})


def test_objects_are_connected_parts():
    mask = np.zeros((20, 20), bool)
    mask[0:4, 0:4], mask[10:18, 10:18], mask[19, 0] = True, True, True
    objects = object_annotations(mask, 0.7)
    assert [o["bbox"] for o in objects] == [[10, 10, 8, 8], [0, 0, 4, 4]]  # one pixel is too little
    assert {o["score"] for o in objects} == {0.7}
    assert object_annotations(None, 0.0) == []


def test_segments_keep_their_scores():
    labels = np.repeat([[0, 2]], 10, axis=0).repeat(5, axis=1)
    found = segment_annotations(labels, [0.1, 0.2, 0.3])
    assert [(s["score"], s["area"]) for s in found] == [(0.1, 50), (0.3, 50)]
