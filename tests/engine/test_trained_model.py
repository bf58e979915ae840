"""Weights as a function of images: the same numbers as the predictor's, as plain arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model

from d2_multitask.checkpoint.reading import DESCRIPTION_KEY
from d2_multitask.config import load_config
from d2_multitask.engine.model_file import describe
from d2_multitask.engine.trained_model import TrainedModel, model_info
from d2_multitask.visualization.metadata import cfg_metadata
from tool_support import small_network

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return TrainedModel(small_network(tmp_path_factory.mktemp("trained")))


def test_the_result_holds_the_predictors_numbers(model: TrainedModel) -> None:
    result, expected = model(IMAGE), model.predictor(IMAGE)
    instances = expected["instances"]
    assert result.image_size == (48, 64) and len(result) == len(instances) > 0
    np.testing.assert_array_equal(result.boxes, instances.pred_boxes.tensor.numpy())
    np.testing.assert_array_equal(result.scores, instances.scores.numpy())
    np.testing.assert_array_equal(result.classes, instances.pred_classes.numpy())
    np.testing.assert_array_equal(result.keypoints, instances.pred_keypoints.numpy())
    np.testing.assert_array_equal(result.maps["sem_seg"], expected["sem_seg"].numpy())
    assert result.masks is None and result.image_labels is None
    assert set(model(IMAGE, ["seg"]).maps) == {"sem_seg"}
    assert model(IMAGE, ["seg"]).boxes is None


@pytest.mark.parametrize(
    "image", [None, np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), IMAGE / 255]
)
def test_what_is_no_image(model: TrainedModel, image: object) -> None:
    with pytest.raises(ValueError, match="image: found"):
        model(image)


def test_what_it_says_about_itself(model: TrainedModel) -> None:
    info = model.info
    assert set(info.outputs) == {"scores", "classes", "boxes", "keypoints", "sem_seg"}
    assert info.tasks == ["center", "det", "pose", "seg"]
    assert info.objects.class_names == ("person",) and info.objects.category_ids == (1,)
    assert info.objects.keypoint_names[0] == "nose" and info.objects.draw_boxes
    left_leg = tuple(map(info.objects.keypoint_names.index, ("left_knee", "left_ankle")))
    assert left_leg in {tuple(sorted(pair)) for pair in info.objects.skeleton}
    assert info.maps["sem_seg"].class_names == ("background", "person")


def test_names_of_the_weight_file_tell_which_pixels_are_of_which_objects(tmp_path: Path) -> None:
    path = small_network(tmp_path)
    content = torch.load(path)
    description = json.loads(content[DESCRIPTION_KEY])
    description["names"]["stuff_classes"] = ["person", "background"]
    config = yaml.safe_load(description["config"])
    config["DATASETS"]["TRAIN"] = ["nobody_registered_this"]
    config["MODEL"]["MASK_ON"] = True
    description["config"] = yaml.safe_dump(config)
    torch.save({**content, DESCRIPTION_KEY: json.dumps(description)}, path)
    result = TrainedModel(path)(IMAGE)
    assert result.masks.any()
    assert not result.masks[:, result.sem_seg == 1].any()


@pytest.mark.parametrize("config", ["quick/mask_rcnn_in_detail.yaml", "mcn_pascal_in_detail.yaml"])
def test_networks_of_all_tasks(config: str) -> None:
    cfg = load_config(config)
    info = model_info(cfg, cfg_metadata(cfg))
    expected = {"scores", "classes", "boxes", "keypoints", "sem_seg", "part_seg", "boundary"}
    assert set(info.outputs) == expected | {"occlusion", "image_labels"}
    assert info.outputs["part_seg"].kind == "logits" and info.outputs["occlusion"].kind == "values"


def test_weights_of_another_network(tmp_path: Path) -> None:
    """A part of a network may have its config inside too."""
    cfg = load_config("quick/mcn_det.yaml")
    cfg.MODEL.DEVICE = "cpu"
    weights = build_model(cfg).state_dict()
    del weights["heads.det.ltrb.1.bias"]
    torch.save({"model": weights, "d2_multitask": describe(cfg)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="has no values for"):
        TrainedModel(tmp_path / "a.pth")
