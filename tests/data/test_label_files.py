"""Maps of other labels from YAML, as docs/datasets.md shows it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from d2_multitask.config import load_config
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.labels.sem_seg import PartSegLabel
from d2_multitask.data.loader import get_training_dicts
from d2_multitask.engine.trainer import MultitaskTrainer
from support import REPOSITORY
from synthetic.people.writer import write_synthetic_people


@pytest.fixture
def parts_cfg(tmp_path, monkeypatch):
    """The page's example on a few small images."""
    for split, count in (("train", 3), ("val", 2)):
        write_synthetic_people(tmp_path, split, count, seed=0)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    page = (REPOSITORY / "docs" / "datasets.md").read_text()
    (yaml,) = (x for x in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "PART_CLASSES:" in x)
    base = REPOSITORY / "configs" / "quick" / "Base-MCN-quick.yaml"
    (tmp_path / "parts.yaml").write_text(yaml.replace("quick/Base-MCN-quick.yaml", str(base)))
    cfg = load_config(tmp_path / "parts.yaml")
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.merge_from_list(["SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2])
    register_datasets(cfg.DATASETS.REGISTER)
    return cfg


def test_a_coco_dataset_with_part_maps_trains_and_is_evaluated(parts_cfg):
    trainer = MultitaskTrainer(parts_cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.storage.latest()["total_loss"][0] > 0
    results = MultitaskTrainer.test(parts_cfg, trainer.model)
    assert set(results) == {"part_seg"} and "IoU-upper_leg" in results["part_seg"]


def test_both_sides_get_one_id(parts_cfg, tmp_path):
    record = DatasetCatalog.get("people_parts_train")[0]
    file = np.array(Image.open(record["part_seg_file_name"]))
    found = PartSegLabel(9).read(record)
    assert set(np.unique(file)) > {3, 4} or (file > 8).any()
    assert np.array_equal(found == 3, (file == 3) | (file == 4))
    assert np.array_equal(found == 255, file == 255)


def test_the_number_of_parts_must_fit(parts_cfg):
    parts_cfg.MODEL.PARTS_HEAD.NUM_CLASSES = 7
    with pytest.raises(ValueError, match=r"part_classes: found 9, .*PARTS_HEAD.NUM_CLASSES to 9"):
        get_training_dicts(parts_cfg)


def test_sides_that_a_mirrored_image_would_confuse(parts_cfg):
    entry = {**parts_cfg.DATASETS.REGISTER[0], "NAME": "sides"}
    entry |= {"PART_CLASSES": ["background", "left_hand", "right_hand"], "PART_SEG_IDS": None}
    register_datasets([entry])
    parts_cfg.DATASETS.TRAIN, parts_cfg.MODEL.PARTS_HEAD.NUM_CLASSES = ("sides",), 3
    with pytest.raises(ValueError, match=r"found \['left_hand'\] .* PART_SEG_IDS"):
        get_training_dicts(parts_cfg)
    parts_cfg.INPUT.RANDOM_FLIP = "none"
    assert get_training_dicts(parts_cfg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PART_CLASSES": ["a"]}, "PART_CLASSES without PART_SEG_ROOT"),
        ({"BOUNDARY_IDS": {0: 1}}, "BOUNDARY_IDS without BOUNDARY_ROOT"),
        ({"BOUNDARY_ROOT": "x", "BOUNDARY_IDS": {0: 300}}, "BOUNDARY_IDS: found {0: 300}"),
        ({"PART_SEG_ROT": "x"}, "did you mean PART_SEG_ROOT"),
    ],
)
def test_keys_that_do_not_fit(change, message):
    entry = {"NAME": "odd", "JSON": "x.json", "IMAGE_ROOT": "x", **change}
    with pytest.raises(ValueError, match=message):
        register_datasets([entry])


def test_no_file_of_a_label(coco, write_coco, tmp_path):
    entry = {"NAME": "none", "JSON": str(write_coco(coco)), "IMAGE_ROOT": str(tmp_path / "images")}
    register_datasets([entry | {"BOUNDARY_ROOT": str(tmp_path)}])
    with pytest.raises(ValueError, match="'boundary_root': found no map of its 2 images"):
        DatasetCatalog.get("none")
