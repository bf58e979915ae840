"""COCO files with the fields and values that labelling tools write; nothing of them is lost."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_multitask.data.datasets import coco as coco_format
from d2_multitask.data.datasets import coco_annotations as coco_objects
from d2_multitask.data.datasets import coco_json
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.problems import DATA_REPORT

HEIGHT, WIDTH = 24, 32
POLYGON, BOX = [4, 2, 12, 2, 12, 18, 4, 18], [4.0, 2.0, 8.0, 16.0]
SIZE = {"width": WIDTH, "height": HEIGHT}


@pytest.fixture
def load(tmp_path, write_coco):
    def load(content):
        json_file = write_coco({"info": {"year": "", "version": "1"}, "licenses": [], **content})
        register_coco_format("export", str(json_file), str(tmp_path / "images"))
        return DatasetCatalog.get("export")

    return load


CVAT_IMAGE = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0, **SIZE}
CVAT = {
    "licenses": [{"name": "", "id": 0, "url": ""}],
    "categories": [{"id": 1, "name": "person", "supercategory": ""}],
    "images": [{"id": 1, "file_name": "a.png", **CVAT_IMAGE}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "segmentation": [],
            "area": 128.0,
            "bbox": BOX,
            "iscrowd": 0,
            "attributes": {"occluded": False, "rotation": 0.0},
        }
    ],
}
LABEL_STUDIO = {
    "images": [{"id": 0, "file_name": "images/a.png", **SIZE}],
    "categories": [{"id": 0, "name": "person"}],
    "annotations": [
        {
            "id": 0,
            "image_id": 0,
            "category_id": 0,
            "segmentation": [[float(value) for value in POLYGON]],
            "bbox": BOX,
            "ignore": 0,
            "iscrowd": 0,
            "area": 128.0,
        }
    ],
}
LABELME = {
    "type": "instances",
    "licenses": [{"url": None, "id": 0, "name": None}],
    "images": [
        {
            "license": 0,
            "url": None,
            "file_name": "JPEGImages/a.png",
            "date_captured": None,
            "id": 0,
            **SIZE,
        }
    ],
    "categories": [
        {"supercategory": None, "id": i, "name": name}
        for i, name in enumerate(["_background_", "person"])
    ],
    "annotations": [
        {
            "id": 0,
            "image_id": 0,
            "category_id": 1,
            "segmentation": [POLYGON],
            "area": 128.0,
            "bbox": BOX,
            "iscrowd": 0,
        }
    ],
}
ROBOFLOW = {
    "categories": [
        {"id": 0, "name": "people", "supercategory": "none"},
        {"id": 1, "name": "person", "supercategory": "people"},
    ],
    "images": [
        {
            "id": 0,
            "license": 1,
            "file_name": "a_png.rf.0123456789abcdef.png",
            "date_captured": "2020-07-20T19:39:26+00:00",
            "extra": {"name": "a.png"},
            **SIZE,
        }
    ],
    "annotations": [
        {
            "id": 0,
            "image_id": 0,
            "category_id": 1,
            "bbox": [4, 2, 8, 16],
            "area": 128,
            "segmentation": [],
            "iscrowd": 0,
        }
    ],
}
VIA_2 = {
    "licenses": [{"id": 0, "name": "Unknown License", "url": ""}],
    "categories": [{"supercategory": "kind", "id": 1, "name": "person"}],
    "images": [
        {
            "id": 1,
            "file_name": "a.png",
            "license": 0,
            "flickr_url": "a.png",
            "coco_url": "a.png",
            "date_captured": "",
            **SIZE,
        }
    ],
    "annotations": [
        {
            "segmentation": [POLYGON],
            "area": 128,
            "bbox": [4, 2, 8, 16],
            "iscrowd": 0,
            "id": 1,
            "image_id": 1,
            "category_id": 1,
        }
    ],
}


def _changed(content, *, image=None, annotation=None, categories=None):
    """The content with other values in all images and annotations."""
    return {
        **content,
        "images": [{**entry, **(image or {})} for entry in content["images"]],
        "annotations": [{**entry, **(annotation or {})} for entry in content["annotations"]],
        "categories": categories or content["categories"],
    }


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(CVAT, id="CVAT"),
        pytest.param(LABEL_STUDIO, id="Label Studio"),
        pytest.param(LABELME, id="labelme"),
        pytest.param(ROBOFLOW, id="Roboflow"),
        pytest.param(VIA_2, id="VIA 2"),
    ],
)
def test_exports_load_without_a_problem(load, content):
    (record,) = load(content)
    (label,) = record["annotations"]
    assert label["bbox"] == BOX and label["area"] == 128 and label["iscrowd"] == 0
    assert ("segmentation" in label) == bool(content["annotations"][0]["segmentation"])
    name = MetadataCatalog.get("export").thing_classes[label["category_id"]]
    assert name == "person"
    assert DATA_REPORT.counts == {}


def test_joints_of_cvat_and_roboflow(load):
    joints = {"keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}
    categories = [
        {"id": 0, "name": "cats", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "cats", **joints},
    ]
    annotation = {"keypoints": [6, 4.5, 2, 0, 0, 0], "num_keypoints": 1, "segmentation": []}
    (record,) = load(_changed(CVAT, annotation=annotation, categories=categories))
    assert record["annotations"][0]["keypoints"] == [6.5, 5.0, 2.0, 0.0, 0.0, 0.0]
    assert MetadataCatalog.get("export").keypoint_names == ["nose", "tail"]
    assert DATA_REPORT.counts == {}


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        pytest.param(
            _changed(VIA_2, image={"id": 0}, annotation={"image_id": "0", "segmentation": POLYGON}),
            {coco_format.OTHER_FORM: 1, coco_objects.FLAT_POLYGON: 1},
            id="VIA 2.0: flat polygon, image id as text",
        ),
        pytest.param(
            _changed(
                VIA_2,
                image={"width": -1, "height": -1},
                annotation={
                    "segmentation": POLYGON,
                    "bbox": [None] * 4,
                    "area": None,
                    "iscrowd": False,
                },
            ),
            {
                coco_json.SIZE_OF_FILE: 1,
                coco_objects.FLAT_POLYGON: 1,
                coco_objects.BOX_FROM_MASK: 1,
            },
            id="VIA 3: no size, polygon without a box",
        ),
        pytest.param(
            _changed(
                LABEL_STUDIO,
                annotation={"category_id": "3"},
                categories=[{"id": "3", "name": "person"}, {"id": 0, "name": "cat"}],
            ),
            {coco_objects.ID_AS_TEXT: 1},
            id="Label Studio: category ids from the labels' attributes",
        ),
        pytest.param(
            _changed(LABELME, annotation={"segmentation": [], "bbox": [12, 18, -8, -16]}),
            {coco_objects.BOX_TURNED: 1},
            id="labelme2coco: rectangle drawn from its last corner",
        ),
        pytest.param(
            _changed(ROBOFLOW, categories=[{"id": i, "name": "person"} for i in (0, 1)]),
            {coco_json.SAME_NAME: 1},
            id="Roboflow: the project is called as its class",
        ),
    ],
)
def test_what_tools_write_otherwise_is_read_and_counted(load, content, problems):
    (record,) = load(content)
    (label,) = record["annotations"]
    assert np.allclose(label["bbox"], BOX, atol=1) and label["iscrowd"] == 0
    assert label["area"] == pytest.approx(128, rel=0.2)
    assert label.get("segmentation", [POLYGON])[0] == POLYGON
    assert (record["height"], record["width"]) == (HEIGHT, WIDTH)
    assert MetadataCatalog.get("export").thing_classes[label["category_id"]] == "person"
    assert DATA_REPORT.counts == problems


def test_exact_ids_come_first(load):
    """Text ids stay text where they are those of images."""
    content = _changed(CVAT, annotation={"image_id": "1"})
    content["images"].append({**content["images"][0], "id": "1", "file_name": "b.png"})
    number, text = load(content)
    assert not number["annotations"] and len(text["annotations"]) == 1
    assert text["image_id"] == "1"


def test_separators_of_windows(load, tmp_path):
    folder = tmp_path / "images" / "sub"
    folder.mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "c.png")
    (record,) = load(_changed(LABELME, image={"file_name": "sub\\c.png"}))
    assert record["file_name"] == str(folder / "c.png")


@pytest.mark.parametrize("size", [None, 0, -1])
def test_no_size_and_no_file_is_a_sentence(load, size):
    image = {"file_name": "none.png", "width": size, "height": size}
    with pytest.raises(ValueError, match=r"images\[0\] \(none.png\): field 'height': found"):
        load(_changed(CVAT, image=image))
