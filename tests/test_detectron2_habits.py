"""What users of Detectron2 type by habit, with nothing of ours but import and config keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator, inference_on_dataset
from detectron2.utils.file_io import PathManager
from detectron2.utils.visualizer import Visualizer
from PIL import Image

import d2_multitask
from d2_multitask import add_multitask_config, register_coco_format
from d2_multitask.engine.trainer import MultitaskTrainer
from support import REPOSITORY

KEYPOINTS = ["left_hand", "right_hand", "nose"]


@pytest.fixture
def people(tmp_path: Path) -> tuple[str, str]:
    """A COCO file of four images with one masked person each, with keypoints, and their folder."""
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 5):
        name, left = f"{number}.png", 8 * number
        pixels = generator.integers(0, 60, (96, 128, 3), dtype=np.uint8)
        pixels[20:80, left : left + 40] += 180
        Image.fromarray(pixels).save(tmp_path / name)
        images.append({"id": number, "file_name": name, "height": 96, "width": 128})
        box = [left, 20, left + 40, 80]
        polygon = [box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]
        keypoints = [left + 5, 50, 2, left + 35, 50, 2, left + 20, 25, 2]
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 7,
                "bbox": [left, 20, 40, 60],
                "area": 2400,
                "iscrowd": 0,
                "segmentation": [polygon],
                "keypoints": keypoints,
                "num_keypoints": 3,
            }
        )
    category = {"id": 7, "name": "person", "keypoints": KEYPOINTS, "skeleton": [[1, 3], [2, 3]]}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    file = tmp_path / "people.json"
    file.write_text(json.dumps(content))
    return str(file), str(tmp_path)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Any:
    """A name for a dataset, which is forgotten afterwards."""
    name = f"habits_{request.node.name}"
    yield name
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)


def habits_cfg(name: str, tmp_path: Path, *opts: Any) -> CfgNode:
    """The config as Detectron2's tutorial makes it."""
    cfg = get_cfg()
    add_multitask_config(cfg)
    cfg.merge_from_file(str(REPOSITORY / "configs" / "quick" / "mcn_seg_det_pose.yaml"))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (name,)
    cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = len(KEYPOINTS)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.05] * len(KEYPOINTS)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 2, 2
    cfg.SOLVER.AMP.ENABLED = False
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.merge_from_list(list(opts))
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    return cfg


def load_ids(file_name: str, dtype: Any) -> np.ndarray:
    with PathManager.open(file_name, "rb") as file:
        return np.asarray(Image.open(file), dtype)


def test_default_trainer_learns_every_task(
    people: tuple[str, str], name: str, tmp_path: Path
) -> None:
    register_coco_format(name, *people)
    # Detectron2's mapper gives keypoints only with this key.
    trainer = DefaultTrainer(habits_cfg(name, tmp_path, "MODEL.KEYPOINT_ON", True))
    trainer.train()
    losses = {k: v.latest() for k, v in trainer.storage.histories().items() if "loss" in k}
    assert {"loss_seg", "loss_det_giou", "loss_pose_offset"} <= set(losses)
    assert all(losses.values()), losses


def test_keypoints_without_names_are_a_sentence_that_says_what_to_type(
    people: tuple[str, str], name: str, tmp_path: Path
) -> None:
    register_coco_instances(name, {}, *people)
    with pytest.raises(ValueError, match=r"type MetadataCatalog.get.*keypoint_names"):
        MultitaskTrainer(habits_cfg(name, tmp_path))


def test_default_trainer_says_which_optimizer_it_has(
    people: tuple[str, str], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register_coco_format(name, *people)
    trainer = DefaultTrainer(habits_cfg(name, tmp_path, "SOLVER.MAX_ITER", 1))
    trainer.train()
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert "SOLVER.OPTIMIZER: found ADAMW" in caplog.text


def test_mixed_precision_without_a_gpu_is_a_clear_word(
    people: tuple[str, str], name: str, tmp_path: Path
) -> None:
    register_coco_format(name, *people)
    cfg = habits_cfg(name, tmp_path, "SOLVER.AMP.ENABLED", True)
    with pytest.raises(AssertionError, match="CUDA is required for AMP"):
        DefaultTrainer(cfg).train()


def test_predictor_evaluators_and_visualizer(
    people: tuple[str, str], name: str, tmp_path: Path
) -> None:
    register_coco_format(name, *people)
    cfg = habits_cfg(name, tmp_path, "MODEL.CENTER_HEAD.SCORE_THRESH_TEST", 0.0)
    torch.manual_seed(0)
    predictor = DefaultPredictor(cfg)
    image = np.asarray(Image.open(Path(people[1]) / "1.png"))[:, :, ::-1]
    result = predictor(image)
    assert set(result) == {"instances", "sem_seg"}
    evaluators = [
        COCOEvaluator(
            name, output_dir=str(tmp_path / "coco"), kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS
        ),
        # Detectron2's own way of loading does not work under NumPy 2.
        SemSegEvaluator(name, output_dir=str(tmp_path / "sem_seg"), sem_seg_loading_fn=load_ids),
    ]
    loader = build_detection_test_loader(cfg, name)
    results = inference_on_dataset(predictor.model, loader, evaluators)
    assert {"bbox", "keypoints", "sem_seg"} <= set(results)
    assert 0 <= results["sem_seg"]["IoU-person"] <= 100
    metadata = MetadataCatalog.get(name)
    drawn = Visualizer(image[:, :, ::-1], metadata).draw_instance_predictions(result["instances"])
    assert drawn.get_image().shape == image.shape
    drawn = Visualizer(image[:, :, ::-1], metadata).draw_sem_seg(result["sem_seg"].argmax(0))
    assert drawn.get_image().shape == image.shape


def test_labels_are_drawn(people: tuple[str, str], name: str) -> None:
    register_coco_format(name, *people)
    record = DatasetCatalog.get(name)[0]
    image = np.asarray(Image.open(record["file_name"]))
    drawn = Visualizer(image, MetadataCatalog.get(name)).draw_dataset_dict(record)
    assert drawn.get_image().shape == image.shape


def test_datasets_of_the_config_are_registered_by_one_call(
    people: tuple[str, str], name: str, tmp_path: Path
) -> None:
    cfg = habits_cfg(name, tmp_path)
    cfg.DATASETS.REGISTER = [{"NAME": name, "JSON": people[0], "IMAGE_ROOT": people[1]}]
    d2_multitask.register_datasets(cfg.DATASETS.REGISTER)
    assert len(DatasetCatalog.get(name)) == 4


def test_masks_of_register_coco_instances_are_semantic_maps(
    people: tuple[str, str], name: str, tmp_path: Path
) -> None:
    register_coco_instances(name, {"keypoint_names": KEYPOINTS, "keypoint_flip_map": []}, *people)
    cfg = habits_cfg(name, tmp_path)
    trainer = MultitaskTrainer(cfg)
    trainer.train()
    assert trainer.storage.latest()["loss_seg"][0] > 0
    results = MultitaskTrainer.test(cfg, trainer.model)
    assert "IoU-person" in results["sem_seg"]
