from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from detectron2.structures import BoxMode
from PIL import Image

from d2_multitask.data.datasets import coco as coco_format
from d2_multitask.data.datasets import coco_annotations as coco_objects
from d2_multitask.data.datasets import coco_json
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.labels.sem_seg import from_source
from d2_multitask.data.problems import DATA_REPORT

NAN = float("nan")


@pytest.fixture
def load(tmp_path, write_coco):
    """Writes a JSON, registers and loads it."""

    def load(content, **kwargs):
        json_file = write_coco(content)
        register_coco_format("own", str(json_file), str(tmp_path / "images"), **kwargs)
        return DatasetCatalog.get("own")

    return load


def test_loads_boxes_masks_joints_and_crowds(load, coco, tmp_path):
    first, second = load(coco)
    assert first["file_name"] == str(tmp_path / "images" / "a.png")
    assert (first["image_id"], first["height"], first["width"]) == (1, 24, 32)
    person, crowd = first["annotations"]
    assert person == {
        "bbox": [4, 2, 8, 16],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
        "area": 128,
        "segmentation": [[4, 2, 12, 2, 12, 18, 4, 18]],
        "keypoints": [8.5, 4.5, 2, 10.5, 9.5, 1, 0, 0, 0],
    }
    assert crowd["iscrowd"] == 1 and crowd["segmentation"]["size"] == [24, 32]
    assert "keypoints" not in crowd
    assert "segmentation" not in second["annotations"][0]
    assert first["sem_seg_from_annotations"] and second["sem_seg_from_annotations"]
    assert DATA_REPORT.counts == {}


def test_agrees_with_detectron2_on_good_data(load, coco, write_coco, tmp_path):
    ours = load(coco)
    theirs = load_coco_json(str(write_coco(coco)), str(tmp_path / "images"), "theirs")
    for our_image, their_image in zip(ours, theirs, strict=True):
        for ours_, theirs_ in zip(
            our_image.pop("annotations"), their_image.pop("annotations"), strict=True
        ):
            for joint in range(2, len(theirs_.get("keypoints", ())), 3):
                if theirs_["keypoints"][joint] == 0:  # theirs shifts joints that are not there
                    theirs_["keypoints"][joint - 2 : joint] = [0, 0]
            width, height = ours_["bbox"][2:]
            assert ours_.pop("area") == width * height  # the file has none
            assert ours_ == theirs_
        our_image = from_source(our_image)
        our_image.pop("sem_seg_from_annotations")
        assert our_image == their_image


def test_metadata_comes_from_the_category(load, coco):
    load(coco)
    metadata = MetadataCatalog.get("own")
    assert metadata.thing_classes == ["person"]
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0}
    assert metadata.stuff_classes == ["background", "person"]
    assert metadata.ignore_label == 255
    assert metadata.keypoint_names == ["nose", "left_hand", "right_hand"]
    assert metadata.keypoint_flip_map == [("left_hand", "right_hand")]
    assert [rule[:2] for rule in metadata.keypoint_connection_rules] == [
        ("nose", "left_hand"),
        ("nose", "right_hand"),
    ]
    assert metadata.evaluator_type == "multitask_coco"


def test_registering_reads_nothing_and_twice_is_once():
    for _ in range(2):
        register_coco_format("own", "/nowhere/a.json", "/nowhere")
    assert MetadataCatalog.get("own").json_file == "/nowhere/a.json"
    with pytest.raises(ValueError, match="'own' is already registered"):
        register_coco_format("own", "/nowhere/b.json", "/nowhere")


def test_loading_twice_gives_the_same(load, coco):
    assert load(coco) == DatasetCatalog.get("own")


def _edit(coco, field, **values):
    """The JSON with fields of its first image or annotation replaced; ``...`` removes one."""
    for key, value in values.items():
        if value is ...:
            del coco[field][0][key]
        else:
            coco[field][0][key] = value
    return coco


@pytest.mark.parametrize(
    ("values", "kind", "label"),
    [
        pytest.param({"bbox": [4, 2, 0, 16]}, coco_objects.BOX_FROM_MASK, {}, id="no width"),
        pytest.param({"bbox": [4, 2, NAN, 16]}, coco_objects.BOX_FROM_MASK, {}, id="NaN in box"),
        pytest.param({"bbox": [40, 2, 5, 5]}, coco_objects.BOX_FROM_MASK, {}, id="box outside"),
        pytest.param({"bbox": [4, 2, 8]}, coco_objects.BOX_FROM_MASK, {}, id="three numbers"),
        pytest.param({"bbox": ["4", 2, 8, 1]}, coco_objects.BOX_FROM_MASK, {}, id="text in box"),
        pytest.param({"bbox": ...}, coco_objects.BOX_FROM_MASK, {}, id="box missing"),
        pytest.param(
            {"bbox": [-6, 2, 18, 30]},
            coco_objects.BOX_CLIPPED,
            {"bbox": [0, 2, 12, 22], "area": 264},
            id="box reaches outside",
        ),
        pytest.param(
            {"segmentation": [[1, 1, 5, 5, 9]]},
            coco_objects.BAD_MASK,
            {"segmentation": ...},
            id="odd polygon",
        ),
        pytest.param(
            {"segmentation": [[4, 2, NAN, 2, 12, 18]]},
            coco_objects.BAD_MASK,
            {"segmentation": ...},
            id="NaN in polygon",
        ),
        pytest.param(
            {"segmentation": [[4, 2, True, 2, 12, 18]]},
            coco_objects.BAD_MASK,
            {"segmentation": ...},
            id="true in polygon",
        ),
        pytest.param(
            {"segmentation": False}, coco_objects.BAD_MASK, {"segmentation": ...}, id="mask false"
        ),
        pytest.param(
            {"segmentation": {"size": [32, 24], "counts": [0, 768]}},
            coco_objects.BAD_MASK,
            {"segmentation": ...},
            id="RLE of another size",
        ),
        pytest.param(
            {"segmentation": [[4, 2, 12, 2, 12, 18, 4, 18], [1, 1]]},
            coco_objects.DEGENERATE_POLYGON,
            {},
            id="one short polygon",
        ),
        pytest.param(
            {"keypoints": [8, 4, 2, 10, 9, 1]},
            coco_objects.BAD_KEYPOINTS,
            {"keypoints": ...},
            id="too few joints",
        ),
        pytest.param(
            {"keypoints": "none"},
            coco_objects.BAD_KEYPOINTS,
            {"keypoints": ...},
            id="keypoints text",
        ),
        pytest.param({"keypoints": 0}, coco_objects.BAD_KEYPOINTS, {"keypoints": ...}, id="0"),
        pytest.param(
            {"keypoints": [8, 4, 2, 32, 9, 1, 0, 0, 0]},
            coco_objects.KEYPOINT_OUTSIDE,
            {"keypoints": [8.5, 4.5, 2, 0, 0, 0, 0, 0, 0]},
            id="joint outside",
        ),
        pytest.param(
            {"keypoints": [8, 4, 2, NAN, 9, 1, 0, 0, 0]},
            coco_objects.KEYPOINT_NOT_FINITE,
            {"keypoints": [8.5, 4.5, 2, 0, 0, 0, 0, 0, 0]},
            id="NaN in joint",
        ),
        pytest.param(
            {"keypoints": [8, 4, 2, 10, 9, 3, 0, 0, 0]},
            coco_objects.BAD_VISIBILITY,
            {"keypoints": [8.5, 4.5, 2, 0, 0, 0, 0, 0, 0]},
            id="visibility 3",
        ),
        pytest.param(
            {"category_id": 99},
            coco_objects.UNKNOWN_CATEGORY,
            {"iscrowd": 1},
            id="unknown category is ignored, not background",
        ),
    ],
)
def test_what_is_wrong_with_a_part_costs_that_part(load, coco, values, kind, label):
    expected = {
        "bbox": [4, 2, 8, 16],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
        "area": 128,
        "segmentation": [[4, 2, 12, 2, 12, 18, 4, 18]],
        "keypoints": [8.5, 4.5, 2, 10.5, 9.5, 1, 0, 0, 0],
    }
    expected |= label
    first, second = load(_edit(coco, "annotations", **values))
    assert first["annotations"][0] == {k: v for k, v in expected.items() if v is not ...}
    assert (len(first["annotations"]), len(second["annotations"])) == (2, 1)
    assert DATA_REPORT.counts == {kind: 1}
    for word in ("annotations.json", "annotations[0] (id 11)", "a.png", "found"):
        assert word in DATA_REPORT.summary()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        pytest.param({"bbox": [4, 2, 0, 1], "segmentation": ...}, coco_objects.BAD_BOX, id="box"),
        pytest.param({"image_id": 3}, coco_format.UNKNOWN_IMAGE, id="unknown image"),
        pytest.param({"image_id": [1]}, coco_format.UNKNOWN_IMAGE, id="odd image id"),
    ],
)
def test_an_object_without_a_place_is_left_out(load, coco, values, kind):
    first, second = load(_edit(coco, "annotations", **values))
    assert (len(first["annotations"]), len(second["annotations"])) == (1, 1)
    assert DATA_REPORT.counts == {kind: 1}


def test_all_zero_joints_stay_as_labelled_but_unseen(load, coco):
    first, _ = load(_edit(coco, "annotations", keypoints=[0] * 9))
    assert first["annotations"][0]["keypoints"] == [0] * 9


def test_old_ignore_flag_is_a_crowd(load, coco):
    first, _ = load(_edit(coco, "annotations", ignore=1))
    assert first["annotations"][0]["iscrowd"] == 1


def test_joints_without_names_are_left_out(load, coco):
    first, _ = load(_edit(coco, "categories", keypoints=..., skeleton=...))
    assert "keypoints" not in first["annotations"][0]
    assert DATA_REPORT.counts == {coco_objects.BAD_KEYPOINTS: 1}
    assert MetadataCatalog.get("own").get("keypoint_names") is None


def test_duplicates(load, coco):
    coco["images"].append(dict(coco["images"][0]))
    coco["annotations"].append(dict(coco["annotations"][0]))
    coco["annotations"].append({**coco["annotations"][0], "bbox": [5, 5, 5, 5]})
    first, second = load(coco)
    assert len(first["annotations"]) == 3  # the true copy is left out, the other object kept
    assert DATA_REPORT.counts == {
        coco_json.SAME_IMAGE_TWICE: 1,
        coco_objects.SAME_ANNOTATION_TWICE: 1,
        coco_objects.SAME_ANNOTATION_ID: 1,
    }


def test_image_without_annotations_is_kept_and_counted(load, coco, caplog):
    caplog.set_level("INFO")
    del coco["annotations"][2]
    _, second = load(coco)
    assert second["annotations"] == []
    assert DATA_REPORT.counts == {}  # COCO has such images: they teach what background is
    assert "2 images (1 of them labelled as empty)" in caplog.text


def test_no_annotations_field_means_no_labels(load, coco):
    del coco["annotations"], coco["categories"]
    assert load(coco)[0].keys() == {"file_name", "image_id", "height", "width"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param('{"images": [', "broken JSON", id="broken"),
        pytest.param("[]", "found list, expected an object", id="a list"),
        pytest.param({"images": ...}, "field 'images': found NoneType", id="no images"),
        pytest.param({"images": []}, "field 'images' is empty", id="empty"),
        pytest.param({"images": [3]}, r"images\[0\]: found int", id="image is a number"),
        pytest.param({"annotations": {}}, "'annotations': found dict", id="annotations no list"),
        pytest.param(
            {"annotations": [3]}, r"annotations\[0\]: found int", id="annotation a number"
        ),
        pytest.param({"categories": ...}, "field 'categories'", id="no categories"),
    ],
)
def test_unusable_files(load, coco, change, message):
    if isinstance(change, dict):
        coco |= change
        change = {k: v for k, v in coco.items() if v is not ...}
    with pytest.raises(ValueError, match=rf"annotations\.json: .*{message}"):
        load(change)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"id": ...}, "field 'id': found None", id="no id"),
        pytest.param({"file_name": ...}, "field 'file_name': found None", id="no name"),
        pytest.param({"height": ...}, r"\(a\.png\): field 'height': found None", id="no height"),
        pytest.param({"width": 0}, "field 'width': found 0", id="no width"),
        pytest.param({"width": NAN}, "field 'width': found nan", id="NaN"),
        pytest.param({"width": 31.5}, r"field 'width': found 31\.5", id="half a pixel"),
    ],
)
def test_unusable_images(load, coco, values, message):
    with pytest.raises(ValueError, match=rf"annotations\.json: images\[0\].*{message}"):
        load(_edit(coco, "images", **values))


def test_two_images_with_one_id(load, coco):
    coco["images"][1]["id"] = 1
    with pytest.raises(ValueError, match=r"images\[1\]: field 'id': found 1, which .*a\.png has"):
        load(coco)


def test_missing_file():
    register_coco_format("own", "/nowhere/a.json", "/nowhere")
    with pytest.raises(ValueError, match=r"/nowhere/a\.json: there is no such file"):
        DatasetCatalog.get("own")


@pytest.mark.parametrize("field", ["category_id", "image_id"])
def test_if_nothing_is_left_it_is_an_error(load, coco, field):
    for annotation in coco["annotations"]:
        annotation[field] = 12345
    with pytest.raises(ValueError, match=rf"none of its 3 annotations can be used.*{field}"):
        load(coco)


def test_boxes_alone_give_no_semantic_map(load, coco):
    for annotation in coco["annotations"]:
        annotation.pop("segmentation", None)
    assert not any("sem_seg_from_annotations" in record for record in load(coco))
    assert MetadataCatalog.get("own").get("stuff_classes") is None


def test_semantic_maps_are_found_by_name(load, coco, tmp_path):
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(tmp_path / "maps" / "a.png")
    first, second = load(coco, sem_seg_root=tmp_path / "maps")
    assert first["sem_seg_file_name"] == str(tmp_path / "maps" / "a.png")
    assert not {"sem_seg_file_name", "sem_seg_from_annotations"} & second.keys()
    assert DATA_REPORT.counts == {coco_format.NO_LABEL_FILE.format("sem_seg"): 1}


def test_no_semantic_map_at_all_is_an_error(load, coco, tmp_path):
    with pytest.raises(ValueError, match=r"'own': field 'sem_seg_root': found no map"):
        load(coco, sem_seg_root=tmp_path / "maps")


def test_semantic_maps_may_come_without_objects(load, coco, tmp_path):
    del coco["annotations"], coco["categories"]
    (tmp_path / "maps").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((24, 32), np.uint8)).save(tmp_path / "maps" / f"{name}.png")
    first, _ = load(coco, sem_seg_root=tmp_path / "maps", stuff_classes=["floor", "wall"])
    assert "annotations" not in first and "sem_seg_file_name" in first
    assert MetadataCatalog.get("own").stuff_classes == ["floor", "wall"]


def test_derived_maps_need_a_name_for_each_category(load, coco):
    with pytest.raises(ValueError, match="'stuff_classes': found .*expected 2 names"):
        load(coco, stuff_classes=["a", "b", "c"])


def test_registered_metadata_must_agree_with_the_file(load, coco):
    with pytest.raises(ValueError, match=r"annotations\.json: thing_classes .*expected \['dog'\]"):
        load(coco, metadata={"thing_classes": ["dog"]})
