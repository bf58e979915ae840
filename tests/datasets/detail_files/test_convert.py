"""The converted files and the loader say the same."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from d2_multitask.data.datasets.coco import CocoFormatDataset
from d2_multitask.data.datasets.pascal_in_detail import (
    find_files,
    load_phase,
    register_detail_layout,
)
from d2_multitask.data.datasets.pascal_in_detail.names import THING_CATEGORY_IDS
from d2_multitask.data.labels.edges import BoundaryLabel
from d2_multitask.data.labels.sem_seg import PartSegLabel, SemSegLabel
from detail_files.convert import convert_file
from detail_files.validate import validate_file
from detail_miniature import miniature, write
from synthetic.in_detail import write_synthetic_in_detail


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    root = tmp_path_factory.mktemp("converted")
    path = write_synthetic_in_detail(root, 6, 3, 7)
    return path, root / "out", convert_file(path, root / "out")


def coco_dicts(path, request_name):
    dataset = CocoFormatDataset(request_name, str(path), "")
    try:
        return dataset()
    finally:
        MetadataCatalog.pop(request_name, None)


@pytest.mark.parametrize("kind", ["instances", "person_keypoints"])
def test_coco_files_are_read_as_the_loader_reads_the_original(converted, kind):
    source, folder, paths = converted
    path = folder / "annotations" / f"{kind}_train.json"
    assert path in paths
    ours = load_phase(str(source), "", "train").dataset_dicts
    theirs = coco_dicts(path, f"converted_{kind}")
    by_id = np.argsort(list(THING_CATEGORY_IDS.values()))
    for mine, other in zip(ours, theirs, strict=True):
        expected = mine["annotations"]
        if kind == "person_keypoints":
            expected = [a for a in expected if a["category_id"] == 14]
        assert len(expected) == len(other["annotations"])
        for a, b in zip(expected, other["annotations"], strict=True):
            assert a["bbox"] == b["bbox"] and a["segmentation"] == b["segmentation"]
            if kind == "person_keypoints":
                assert b["category_id"] == 0
                assert np.allclose(a["keypoints"], b["keypoints"])
            else:
                # Who reads COCO's format numbers the classes by the file's ids.
                assert by_id[b["category_id"]] == a["category_id"]


def test_pycocotools_reads_them(converted):
    _, folder, _ = converted
    coco = COCO(str(folder / "annotations/instances_val.json"))
    assert len(coco.getImgIds()) == 3 and len(coco.getCatIds()) == 20
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(annotation).sum() == annotation["area"]
    (category,) = COCO(str(folder / "annotations/person_keypoints_val.json")).loadCats([284])
    assert len(category["keypoints"]) == 14 and len(category["skeleton"]) == 13


def test_maps_are_those_of_the_loader(converted):
    source, folder, _ = converted
    labels = (SemSegLabel(), PartSegLabel(), BoundaryLabel())
    for record in load_phase(str(source), "", "val").dataset_dicts:
        for label in labels:
            path = folder / label.key / record["file_name"].replace(".jpg", ".png")
            expected = label.read(record)
            assert path.exists() == (expected is not None)
            if expected is not None:
                assert np.array_equal(np.asarray(Image.open(path)), expected)


def test_registered_phases(converted):
    source, _, _ = converted
    files = find_files(str(source.parents[1]))
    assert files[0] == str(source) and files[1].endswith("JPEGImages")
    register_detail_layout("test_detail", *files)
    register_detail_layout("test_detail", *files)
    try:
        everything = DatasetCatalog.get("test_detail_val")
        people = DatasetCatalog.get("test_detail_person_val")
        assert MetadataCatalog.get("test_detail_val").evaluator_type == "pascal_in_detail"
        assert MetadataCatalog.get("test_detail_person_val").thing_classes == ["person"]
        for whole, part in zip(everything, people, strict=True):
            persons = [a["bbox"] for a in whole["annotations"] if a["category_id"] == 14]
            assert [a["bbox"] for a in part["annotations"]] == persons
            assert {a["category_id"] for a in part["annotations"]} <= {0}
            assert part["sem_seg_segments"] == whole["sem_seg_segments"]
        with pytest.raises(ValueError, match="already registered"):
            register_detail_layout("test_detail", "other.json", files[1])
    finally:
        for phase in ("train", "val", "person_train", "person_val"):
            DatasetCatalog.remove(f"test_detail_{phase}")
            MetadataCatalog.pop(f"test_detail_{phase}", None)


def test_the_report_settles_the_open_questions(converted, tmp_path):
    source, _, _ = converted
    (tmp_path / "2010_001592.jpg").touch()
    report = validate_file(source, tmp_path)
    for line in (
        "! not a known one",
        "phase train: 6 images (! the dataset has 4996)",
        "59 categories, in the known order",
        "type of onlysemantic: {'int': 59}",
        "false for the 20 classes alone: True",
        "images in whose list stuff follows an instance: 0",
        "masks of stuff that have parts: 0; that have the key: ",
        "masks that cannot be decoded: 0",
        "area differs from the mask: 0; box differs: 0",
        "ids of instances come after those of stuff: True",
        "name of part 29: lbuleg",
        "person_id counts from 1 in list order: True",
        "100.0% of them if they count from 0",
        "100.0% of the boundary lies within 2 pixels of contours of instances",
        f"image files that are not in {tmp_path}: 9",
        "there, and left out by the dataset as known: 2010_001592.jpg",
        "Problems\n  none",
    ):
        assert line in report, line


def test_the_report_says_what_differs(tmp_path):
    """The miniature, changed: what nobody knows of the real file may turn out this way."""
    content = miniature()
    content["categories"][1]["onlysemantic"] = False
    del content["annos_segmentation"][0]["parts"]
    content["annos_segmentation"].insert(2, content["annos_segmentation"].pop(3))
    content["annos_segmentation"].append(content["annos_segmentation"].pop(0))
    content["annos_occlusion"][0]["nj"] = 3
    report = validate_file(write(content, tmp_path))
    for line in (
        "type of onlysemantic: {'int': 2, 'bool': 1}",
        "false for the 20 classes alone: ! not for ['grass']",
        "ids 1..4, not ascending",
        "images in whose list stuff follows an instance: 1",
        "that have the key: 1",
        "unknown keys: {'nj': 1}",
        "! classes that are not listed: aeroplane",
    ):
        assert line in report, report
