"""The data side on real photographs, where they are available."""

from __future__ import annotations

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.loader import build_train_loader, get_training_dicts
from d2_multitask.data.problems import DATA_REPORT
from support import needs_real_data, real_data

pytestmark = needs_real_data


def test_coco_people_in_three_lines():
    folder = real_data() / "coco_people"
    register_coco_format(
        "coco_people", str(folder / "person_keypoints_val.json"), str(folder / "images")
    )
    records = DatasetCatalog.get("coco_people")
    annotations = [a for record in records for a in record["annotations"]]
    assert len(records) == 40
    assert len(annotations) == 190
    assert sum(any(a.get("keypoints", ())) for a in annotations) == 116
    assert DATA_REPORT.counts == {}


@pytest.mark.parametrize(
    ("name", "num_joints", "num_pairs"), [("coco_people", 17, 8), ("tud_pedestrians", 11, 0)]
)
def test_from_the_config_to_batches(cfg, name, num_joints, num_pairs):
    folder = real_data() / name
    json_file = str(folder / "person_keypoints_train.json")
    cfg.DATASETS.REGISTER = [
        {"NAME": name, "JSON": json_file, "IMAGE_ROOT": str(folder / "images")}
    ]
    cfg.DATASETS.TRAIN = (name,)
    cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = num_joints
    cfg.INPUT.SCALE_CROP.ENABLED = True
    cfg.INPUT.SCALE_CROP.SIZE = (128, 160)
    cfg.INPUT.COLOR_JITTER.ENABLED = True
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    register_datasets(cfg.DATASETS.REGISTER)
    assert len(get_training_dicts(cfg)) > 90
    assert len(MetadataCatalog.get(name).keypoint_flip_map) == num_pairs
    batches = iter(build_train_loader(cfg))
    for image in (image for _ in range(10) for image in next(batches)):
        assert image["image"].shape == (3, 128, 160)
        assert image["sem_seg"].shape == (128, 160)
        assert set(image["sem_seg"].unique().tolist()) <= {0, 1, 255}
        x1, y1, x2, y2 = image["instances"].gt_boxes.tensor.unbind(1)
        assert (x1 >= 0).all() and (x1 < x2).all() and (x2 <= 160).all()
        assert (y1 >= 0).all() and (y1 < y2).all() and (y2 <= 128).all()
    assert DATA_REPORT.counts == {}
