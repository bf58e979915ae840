from __future__ import annotations

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices

import d2_multitask.data.datasets.builtin  # noqa: F401
from d2_multitask.data.datasets.builtin import COCO_PERSON_METADATA, register_coco_people

NAMES = [
    f"{name}_{split}"
    for name in ("coco_person_2017", "synthetic_people")
    for split in ("train", "val")
]


@pytest.mark.parametrize("name", NAMES)
def test_names_and_joints_are_known_without_any_file(name):
    assert name in DatasetCatalog
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["person"]
    assert metadata.stuff_classes == ["background", "person"]
    assert len(metadata.keypoint_names) == 17
    assert metadata.evaluator_type == "multitask_coco"
    indices = create_keypoint_hflip_indices(name)
    assert indices[:3] == [0, 2, 1] and sorted(indices) == list(range(17))


def test_folders():
    coco = MetadataCatalog.get("coco_person_2017_val")
    assert coco.json_file.endswith("coco/annotations/person_keypoints_val2017.json")
    assert coco.image_root.endswith("coco/val2017")
    synthetic = MetadataCatalog.get("synthetic_people_val")
    assert synthetic.json_file.endswith("synthetic_people/annotations/instances_val.json")
    assert synthetic.image_root.endswith("synthetic_people/val/images")
    assert synthetic.sem_seg_root.endswith("synthetic_people/val/sem_seg")


def test_a_missing_file_is_said_when_it_is_used(tmp_path, monkeypatch):
    for split in ("train", "val"):
        monkeypatch.delitem(DatasetCatalog.data, f"coco_person_2017_{split}")
        monkeypatch.delitem(MetadataCatalog.data, f"coco_person_2017_{split}")
    register_coco_people(str(tmp_path))
    with pytest.raises(ValueError, match=r"person_keypoints_val2017\.json: there is no such file"):
        DatasetCatalog.get("coco_person_2017_val")


def test_a_coco_file_agrees_with_the_registered_names(coco, write_coco, tmp_path):
    from d2_multitask.data.datasets.coco import register_coco_format

    names = COCO_PERSON_METADATA["keypoint_names"]
    coco["categories"] = [{"id": 1, "name": "person", "keypoints": names, "skeleton": [[16, 14]]}]
    for annotation in coco["annotations"]:
        annotation["category_id"] = 1
        annotation.pop("keypoints", None)
    register_coco_format(
        "like_coco", str(write_coco(coco)), str(tmp_path), metadata=COCO_PERSON_METADATA
    )
    DatasetCatalog.get("like_coco")
    rules = MetadataCatalog.get("like_coco").keypoint_connection_rules
    assert rules == COCO_PERSON_METADATA["keypoint_connection_rules"]
