"""Our networks with Detectron2's own trainer, mapper, predictor and evaluators."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_FLIP_MAP,
    COCO_PERSON_KEYPOINT_NAMES,
)
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator, inference_on_dataset
from PIL import Image

from d2_multitask.losses import LabelWatch
from engine_support import SIZE, tiny_cfg, write_people


@pytest.fixture(params=[False, True], ids=["objects", "objects and maps"])
def people(request, tmp_path):
    """The name of a set as Detectron2 reads it, and whether it has semantic maps."""
    json_file, name = str(write_people(tmp_path / "people")), "plain_people"

    def load():
        records = load_coco_json(json_file, str(tmp_path / "people"), name)
        for number, record in enumerate(records if request.param else ()):
            record["sem_seg_file_name"] = str(tmp_path / f"{number}_map.png")
            Image.fromarray(np.eye(SIZE, dtype=np.uint8)).save(record["sem_seg_file_name"])
        return records

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=json_file,
        keypoint_names=COCO_PERSON_KEYPOINT_NAMES,
        keypoint_flip_map=COCO_PERSON_KEYPOINT_FLIP_MAP,
        stuff_classes=["background", "person"],
        ignore_label=255,
    )
    yield name, request.param
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.filterwarnings("ignore:The 'warn' method", "ignore:Creating a tensor from a list")
@pytest.mark.parametrize("keypoints_on", [False, True])
def test_trains_predicts_and_is_scored(people, tmp_path, caplog, keypoints_on):
    """A task whose labels Detectron2's mapper does not give is named."""
    name, has_maps = people
    caplog.set_level(logging.INFO, logger="detectron2")  # or it is set up for good
    cfg = tiny_cfg(name, tmp_path, MODEL__KEYPOINT_ON=keypoints_on)
    trainer = DefaultTrainer(cfg)
    trainer.model.label_watch = LabelWatch(period=2)
    trainer._hooks = []  # no logging, no evaluation
    trainer.max_iter = 2
    trainer.train()
    named = {m.split("'")[1] for m in caplog.messages if "has learned nothing in 2 batches" in m}
    given = {"seg": has_maps, "pose": keypoints_on}
    assert named == {task for task, is_given in given.items() if not is_given}

    cfg.MODEL.WEIGHTS = ""
    answer = DefaultPredictor(cfg)(np.zeros((SIZE, SIZE, 3), np.uint8))
    assert answer["sem_seg"].shape == (2, SIZE, SIZE)
    sigmas = [0.05] * len(COCO_PERSON_KEYPOINT_NAMES)
    loader = build_detection_test_loader(cfg, name)
    coco = COCOEvaluator(name, output_dir=str(tmp_path), kpt_oks_sigmas=sigmas)
    assert "AP" in inference_on_dataset(trainer.model, loader, coco)["bbox"]
    if has_maps:
        # Its own function for reading maps fails under NumPy 2.
        maps = SemSegEvaluator(
            name, sem_seg_loading_fn=lambda f, dtype: np.array(Image.open(f), dtype)
        )
        assert "mIoU" in inference_on_dataset(trainer.model, loader, maps)["sem_seg"]
