"""Planted faults of boxes, masks and sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from d2_multitask.config import get_multitask_cfg
from d2_multitask.doctor.boxes import scales
from doctor_support import HEIGHT, WIDTH, Content, check_planted, set_config


def test_a_box_of_another_object(tmp_path: Path) -> None:
    def move(content: Content) -> None:
        content["annotations"][2]["bbox"] = [2, 2, 20, 30]
        del content["annotations"][2]["keypoints"]

    finding = check_planted(set_config(tmp_path, move), "boxes/masks", "warning")
    assert finding.count == 1 and finding.total == 30
    assert "3.png, object 1: found the box [2.0, 2.0, 22.0, 32.0]" in finding.examples[0]


def test_boxes_of_another_format(tmp_path: Path) -> None:
    """Corners, where COCO wants width and height: the loader clips them too."""

    def as_corners(content: Content) -> None:
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["bbox"] = [0, 0, (x + w) / 5, (y + h) / 5]
            del annotation["keypoints"]

    cfg = set_config(tmp_path, as_corners)
    cfg.MODEL.TASKS = ["det"]
    assert check_planted(cfg, "boxes/masks", "error").count == 30


def test_a_mask_that_cannot_be_read(tmp_path: Path) -> None:
    """Of dicts of one's own, which no loader reads before training does."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.structures import BoxMode

    box = {"bbox": [4.0, 4.0, 20.0, 40.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    annotation = {**box, "segmentation": {"size": [5, 5], "counts": [25]}}
    cfg = set_config(tmp_path)
    file = f"{tmp_path}/test/images/1.png"
    record = {"file_name": file, "image_id": 1, "height": HEIGHT, "width": WIDTH}
    DatasetCatalog.register("own_dicts", lambda: [{**record, "annotations": [annotation]}])
    MetadataCatalog.get("own_dicts").set(thing_classes=["person"])
    cfg.MODEL.TASKS, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ["det"], ("own_dicts",), ()
    try:
        finding = check_planted(cfg, "boxes/bad-masks", "warning", is_mended=False)
    finally:
        DatasetCatalog.remove("own_dicts")
        MetadataCatalog.remove("own_dicts")
    assert "1.png, object 1: found an RLE of size [5, 5], expected [96, 64]" in finding.examples[0]


@pytest.mark.parametrize("crop", ["", "SCALE_CROP", "RANDOM_RESIZED_CROP"])
def test_objects_smaller_than_a_cell(tmp_path: Path, crop: str) -> None:
    cfg = set_config(tmp_path)
    cfg.DATASETS.TEST = ()
    cfg.INPUT.MIN_SIZE_TRAIN = (3,)
    if crop:
        cfg.INPUT[crop].ENABLED, cfg.INPUT[crop].SIZE = True, (3, 3)
    finding = check_planted(cfg, "boxes/small", "warning")
    assert "training input" in finding.text and finding.count == 30
    assert finding.mend.startswith(f"INPUT:\n  {crop or 'MIN_SIZE_TRAIN'}")


@pytest.mark.parametrize("mode", ["shortest_edge", "stretch", "center_crop"])
def test_test_images_that_become_too_small(tmp_path: Path, mode: str) -> None:
    cfg = set_config(tmp_path)
    cfg.DATASETS.TRAIN, cfg.INPUT.MIN_SIZE_TEST = (), 3
    cfg.INPUT.SCALE_CROP.SIZE, cfg.INPUT.RANDOM_RESIZED_CROP.SIZE = (4, 4), (4, 4)
    if mode == "center_crop":
        cfg.INPUT.CENTER_CROP_TEST, mode = (4, 4), "shortest_edge"
    cfg.INPUT.RESIZE_TEST = mode
    assert "test input" in check_planted(cfg, "boxes/small", "warning").text


def test_scales_are_those_of_the_resizing() -> None:
    cfg = get_multitask_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (200,), 250
    sizes = np.array([[100, 150], [100, 100], [400, 100], [100, 150]])
    # To a shorter side of 200, but the longer side is at most 250.
    np.testing.assert_allclose(
        scales(cfg, sizes, True), [250 / 150, 2, 0.625, 250 / 150], rtol=0.01
    )
    cfg.INPUT.SCALE_CROP.ENABLED, cfg.INPUT.SCALE_CROP.SIZE = True, (200, 100)
    cfg.INPUT.SCALE_CROP.SCALE_RANGE = (2.0, 2.0)
    np.testing.assert_allclose(scales(cfg, sizes[1:3], True), [0.5, 0.25])
