"""Names of classes and keypoints: the dataset's where they fit, generic ones elsewhere."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from d2_multitask.config import get_multitask_cfg, load_config
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.visualization.metadata import (
    cfg_metadata,
    dataset_metadata,
    limbs,
    metadata_for,
    picture_metadata,
)


@pytest.fixture
def registered():
    """Registers datasets under names that are forgotten after the test."""
    names = []

    def register(name: str, json_file: str) -> str:
        register_coco_format(name, json_file, "images")
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.pop(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.pop(name)


def dog_metadata() -> Metadata:
    return Metadata(
        thing_classes=["dog"],
        stuff_classes=["background", "dog"],
        keypoint_names=["head", "tail"],
        keypoint_connection_rules=[("head", "tail", (255, 0, 0))],
        thing_dataset_id_to_contiguous_id={18: 0},
    )


def test_names_of_the_data_set_are_kept():
    metadata = picture_metadata(
        dog_metadata(), num_classes=1, num_keypoints=2, num_sem_seg_classes=2
    )
    assert metadata.thing_classes == ["dog"]
    assert metadata.stuff_classes == ["background", "dog"]
    assert limbs(metadata) == [(0, 1)]
    assert metadata.thing_dataset_id_to_contiguous_id == {18: 0}


def test_names_of_another_number_are_replaced():
    metadata = picture_metadata(
        dog_metadata(), num_classes=3, num_keypoints=5, num_sem_seg_classes=7
    )
    assert metadata.thing_classes == ["class 0", "class 1", "class 2"]
    assert metadata.keypoint_names == [f"keypoint {i}" for i in range(5)]
    assert limbs(metadata) == []
    assert metadata.stuff_classes == [f"class {i}" for i in range(7)]


def test_seventeen_joints_without_names_are_cocos_with_a_torso():
    metadata = picture_metadata(num_keypoints=17)
    edges = {frozenset(edge) for edge in limbs(metadata)}
    # nose 0, shoulders 5 and 6, hips 11 and 12, left knee 13.
    for edge in [(5, 6), (11, 12), (5, 11), (6, 12), (11, 13)]:
        assert frozenset(edge) in edges


def test_semantic_classes_are_background_and_objects_if_nothing_is_known():
    metadata = picture_metadata(num_classes=1, num_sem_seg_classes=2)
    assert metadata.stuff_classes[0] == "background"
    assert len(metadata.stuff_classes) == 2


def test_a_torso_of_the_skeleton_is_not_drawn_twice():
    rules = [
        ("left_shoulder", "left_hip", (1, 2, 3)),
        ("right_hip", "right_shoulder", (1, 2, 3)),
    ]
    names = ["left_shoulder", "right_shoulder", "left_hip", "right_hip"]
    known = Metadata(keypoint_names=names, keypoint_connection_rules=rules)
    assert limbs(picture_metadata(known, num_keypoints=4)) == [(0, 2), (3, 1)]


def test_an_image_with_a_class_beyond_the_names_gets_generic_ones():
    metadata = metadata_for(dog_metadata(), class_ids=torch.tensor([0, 4]))
    assert len(metadata.thing_classes) == 5


def test_metadata_of_an_unknown_data_set_is_empty_and_registers_nothing():
    cfg = get_multitask_cfg()
    cfg.DATASETS.TEST = ("registered_by_no_test",)
    assert dataset_metadata(cfg).get("thing_classes") is None
    assert "registered_by_no_test" not in MetadataCatalog.list()
    assert len(cfg_metadata(cfg).keypoint_names) == 17


def test_a_data_set_without_its_file_gives_generic_names(registered, tmp_path, caplog):
    cfg = get_multitask_cfg()
    cfg.DATASETS.TEST = (registered("vis_absent", str(tmp_path / "absent.json")),)
    assert cfg_metadata(cfg).thing_classes == ["class 0"]
    assert "vis_absent" in caplog.text


def test_names_are_read_from_the_data_sets_file(registered, tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 18, "bbox": [1, 1, 4, 4]}],
        "categories": [
            {"id": 18, "name": "dog", "keypoints": ["head", "tail"], "skeleton": [[1, 2]]}
        ],
    }
    (tmp_path / "dogs.json").write_text(json.dumps(content))
    cfg = get_multitask_cfg()
    cfg.DATASETS.TEST = (registered("vis_dogs", str(tmp_path / "dogs.json")),)
    cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = 2
    metadata = cfg_metadata(cfg)
    assert metadata.thing_classes == ["dog"]
    assert metadata.keypoint_names == ["head", "tail"]
    assert limbs(metadata) == [(0, 1)]


@pytest.mark.parametrize("config", ["mask_rcnn_pascal_in_detail", "mcn_pascal_in_detail"])
def test_both_networks_of_pascal_in_detail_have_its_names(config):
    metadata = cfg_metadata(load_config(f"{config}.yaml"))
    assert metadata.thing_classes[14] == "person" and len(metadata.thing_classes) == 20
    assert metadata.stuff_classes[49] == "sky"
    assert len(metadata.keypoint_names) == 14 and len(limbs(metadata)) >= 13
