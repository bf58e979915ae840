from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from scipy.io import savemat

import d2_multitask.data.datasets.builtin  # noqa: F401
from bsds_support import cell, halves, write_image
from d2_multitask.data.datasets.bsds500 import Bsds500, read_partitions


@pytest.fixture
def root(tmp_path):
    write_image(tmp_path, "100007", [halves(), halves(column=10)])
    write_image(tmp_path, "3063", [halves()])
    return tmp_path / "BSDS500"


def test_names_are_registered():
    for split in ("train", "val", "test"):
        assert DatasetCatalog.data[f"bsds500_{split}"].root.endswith("BSDS500")


def test_images_and_their_people(root):
    records = Bsds500("bsds500_test", str(root), "test")()
    assert [record["image_id"] for record in records] == ["100007", "3063"]
    assert records[0]["file_name"] == str(root / "data/images/test/100007.jpg")
    first, second = read_partitions(records[0]["partitions_file_name"])
    np.testing.assert_array_equal(first.segments, halves())
    np.testing.assert_array_equal(second.segments, halves(column=10))
    np.testing.assert_array_equal(np.flatnonzero(first.boundary.all(axis=0)), [14])
    assert first.boundary.sum() == 20 and first.boundary.dtype == bool


def test_missing_files(root):
    with pytest.raises(ValueError, match=r"found no folder .*images/val, expected"):
        Bsds500("bsds500_val", str(root), "val")()
    (root / "data/groundTruth/test/3063.mat").unlink()
    with pytest.raises(ValueError, match=r"3063\.mat, expected the ground truth of .*3063\.jpg"):
        Bsds500("bsds500_test", str(root), "test")()


def test_damaged_files(root):
    file = root / "data/groundTruth/test/3063.mat"
    whole = file.read_bytes()
    for content in (b"", whole[:300], b"Not a MATLAB file. " * 20):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"3063\.mat: cannot be read as a MATLAB file"):
            read_partitions(file)
    with pytest.raises(ValueError, match=r"none\.mat: cannot be read"):
        read_partitions(root / "none.mat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ucm2": np.zeros((3, 3))}, r"found the variables \['ucm2'\], expected a cell"),
        ({"groundTruth": np.zeros((2, 2))}, r"groundTruth\{1\}: found the fields \[\], expected"),
        (
            {"groundTruth": cell([{"Segmentation": halves()}])},
            r"found the fields \['Segmentation'\], expected Segmentation and Boundaries",
        ),
        (
            {"groundTruth": cell([{"Segmentation": halves(), "Boundaries": halves(4, 4)}])},
            r"found maps of the shapes \[\(4, 4\), \(20, 30\)\], expected \(H, W\)",
        ),
    ],
)
def test_files_of_something_else(tmp_path, content, message):
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(ValueError, match=message):
        read_partitions(tmp_path / "a.mat")
