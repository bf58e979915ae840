"""tools/evaluate_proposals.py as a user runs it."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.segmenting.output_folder import coco_json as segments_json
from d2_multitask.segmenting.output_folder import segment_annotations
from evaluation_support import HEIGHT, WIDTH, annotation, coco_json
from support import REPOSITORY
from tool_support import load_tool

NAME = "small_proposals"
OBJECTS = [annotation(1, 1, [0, 0, 20, 20]), annotation(2, 2, [10, 10, 20, 20])]


@pytest.fixture(scope="module")
def tool():
    return load_tool("evaluate_proposals.py")


@pytest.fixture
def proposals(tmp_path):
    """Dataset and a file: the first image's object is the better of its two segments."""
    labels = coco_json(OBJECTS)
    records = []
    for image in reversed(labels["images"]):  # other ids than the dataset's
        segments = np.zeros((HEIGHT, WIDTH), int)
        segments[:20, :20] = 1
        fields = {k: image[k] for k in ("file_name", "height", "width")}
        records.append({**fields, "segments": segment_annotations(segments, [0.2, 0.7])})
    file = tmp_path / "segments.json"
    file.write_text(json.dumps(segments_json(records, "segments", {}, 0.0)))
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    register_coco_format(NAME, str(tmp_path / "labels.json"), str(tmp_path))
    yield ["--dataset", NAME, "--output", str(tmp_path / "out")], file
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_a_row_for_each_file_and_the_grid(tool, proposals, tmp_path, capsys):
    words, file = proposals
    assert tool.main([*words, "--segments", str(file), "--grid", "1", "3"]) == 0
    scores = json.loads((tmp_path / "out" / "results.json").read_text())
    ours = scores[str(file)]
    # The first image's object is found exactly; the second's has an IoU of 1/7 with the segment.
    assert ours["masks AR@1"] == ours["boxes AR@100"] == pytest.approx(50)
    assert ours["masks AP50"] == ours["boxes AP"] == pytest.approx(100 * 51 / 101)
    assert ours["proposals per image"] == 2
    assert scores["grid 1 3"]["proposals per image"] == 10
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| grid 1 3 " in table and table in capsys.readouterr().out


def test_an_image_is_that_of_one_folder(tool, tmp_path):
    size = {"height": HEIGHT, "width": WIDTH}
    records = [
        {"file_name": f"/data/{folder}/1.png", "image_id": number, **size}
        for number, folder in enumerate("ab")
    ]
    file = tmp_path / "segments.json"  # of the images of a, which has no folder in its names
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": "1.png", **size}]}))
    with pytest.raises(ValueError, match="one image 1.png for two .* the second of them /data/b"):
        tool.read_results(file, records)


def test_what_is_wrong_is_said(tool, proposals, capsys):
    words, file = proposals

    def told(content):
        file.write_text(json.dumps(content))
        assert tool.main([*words, "--segments", str(file)]) == 2
        return capsys.readouterr().err

    good = json.loads(file.read_text())
    name = good["images"][0]["file_name"]
    fewer = {**good, "images": good["images"][1:]}
    assert f"found no {name} among 1 images, expected all 2" in told(fewer)
    smaller = {**good, "images": [{**i, "height": 9} for i in good["images"]]}
    assert f"found (height, width) (9, {WIDTH}), expected ({HEIGHT}, {WIDTH})" in told(smaller)
    labels = {**good, "annotations": [{"id": 5, "image_id": 1, "bbox": [0, 0, 9, 9]}]}
    assert "annotation 5: found no image_id or no score or no segm" in told(labels)
    first = good["annotations"][0]
    for change, message in (
        ({"score": float("nan")}, "annotation 1: score: found nan, expected a number"),
        (
            {"segmentation": [[0, 0, 9, 0, 9, 9]]},
            "found [[0, 0, 9, 0, 9, 9]], expected a compressed RLE",
        ),
        ({"bbox": [0, 0, 9]}, "bbox: found [0, 0, 9], expected [x, y, width, height]"),
    ):
        assert message in told({**good, "annotations": [{**first, **change}]})
    twice = {**good, "images": [*good["images"], {**good["images"][0], "id": 9}]}
    assert "found images of one file_name" in told(twice)
    unnamed = {**good, "images": [{"id": 1, "file_name": name}]}
    assert "image 1: found no id or no file_name or no height" in told(unnamed)
    for wrong, message in (
        ((), "found neither --segments nor --grid"),
        (("--grid", "0"), "found 0"),
    ):
        with pytest.raises(SystemExit):
            tool.main([*words, *wrong])
        assert message in capsys.readouterr().err


RLE = {"size": [HEIGHT, WIDTH]}
IMAGE = {"height": HEIGHT, "width": WIDTH}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": {**RLE, "counts": "zzzzé"}}, "segmentation: found RLE counts that are"),
        ({"segmentation": {**RLE, "counts": "0"}}, "found RLE counts for 0 pixels, expected 4800"),
        ({"segmentation": {**RLE, "counts": "OQf4"}}, "counts for 4800 pixels, .* no negative"),
        ({"segmentation": {**RLE, "counts": "R"}}, "found RLE counts that end inside a number"),
        ({"bbox": ["a", 1, 2, 3]}, r"bbox: found \['a', 1, 2, 3\], expected \[x, y, width, height"),
        ({"bbox": [1, 1, -2, None]}, r"bbox: found \[1, 1, -2, None\], expected"),
        ({"bbox": [1, 1, -2, 3]}, r"bbox: found \[1, 1, -2, 3\], expected"),
        ({"bbox": [1, 1, float("inf"), 3]}, r"bbox: found \[1, 1, inf, 3\], expected"),
        ({"image_id": [1]}, r"image_id: found \[1\], expected a number or text"),
        ({"image_id": 77}, "image_id: found 77, expected that of an image of the file"),
        ({"score": True}, "score: found True, expected a number"),
    ],
)
def test_a_broken_annotation_is_said(tool, proposals, monkeypatch, capsys, change, message):
    words, file = proposals
    monkeypatch.delattr(tool, "class_agnostic_scores")  # it hangs on some of these
    content = json.loads(file.read_text())
    content["annotations"][1] |= change
    file.write_text(json.dumps(content))
    assert tool.main([*words, "--segments", str(file)]) == 2
    assert re.fullmatch(f"Error: {file}: annotation 2: .*{message}.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "images: found None, expected a list of objects"),
        ({"images": [3]}, "images[0]: found 3, expected an object"),
        (
            {"images": [{"id": 1, "file_name": ["x"], **IMAGE}]},
            "image 1: file_name: found ['x'], expected a file name",
        ),
        (
            {"images": [{"id": [1], "file_name": "1.png", **IMAGE}]},
            "images[0]: id: found [1], expected a number or text",
        ),
        (
            {"images": [{"id": 1, "file_name": "1.png", "height": "60", "width": WIDTH}]},
            "image 1: height: found '60', expected a number of pixels",
        ),
        ({"annotations": {}}, "annotations: found {}, expected a list of objects"),
        ({"annotations": ["a"]}, "annotations[0]: found 'a', expected an object"),
    ],
)
def test_wrong_types_are_said(tool, proposals, capsys, change, message):
    words, file = proposals
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert tool.main([*words, "--segments", str(file)]) == 2
    assert capsys.readouterr().err == f"Error: {file}: {message}\n"


@pytest.mark.parametrize("objects", [[], [{**OBJECTS[0], "iscrowd": 1}]])
def test_a_dataset_without_an_object_is_said(tool, proposals, tmp_path, capsys, objects):
    words, file = proposals
    (tmp_path / "labels.json").write_text(json.dumps(coco_json(objects)))
    assert tool.main([*words, "--segments", str(file)]) == 2
    assert f"found {NAME}, which has no labelled object" in capsys.readouterr().err


def test_commands_of_the_documentation(tool):
    text = (REPOSITORY / "docs" / "segments.md").read_text(encoding="utf-8")
    commands = re.findall(r"python tools/evaluate_proposals\.py (--.*)", text)
    assert len(commands) >= 2
    for command in commands:
        tool.parse_args(shlex.split(command))
