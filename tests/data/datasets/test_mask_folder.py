"""Folders of images and masks, from the YAML to the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from d2_multitask.config import get_multitask_cfg
from d2_multitask.data.datasets.folders import NO_MASK, register_mask_folder
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.labels.foreground import ForegroundLabel
from d2_multitask.data.loader import (
    NO_LABEL,
    build_test_loader,
    build_train_loader,
    get_training_dicts,
    repeat_factors,
)
from d2_multitask.data.mapper import BAD_IMAGE, MultitaskDatasetMapper
from d2_multitask.data.problems import DATA_REPORT

NAME = "test_mask_folder"
IMAGES = "test_mask_folder_images"


@pytest.fixture
def root(tmp_path):
    """Three images, one in a folder below; masks of two, in other formats; column x is x."""
    for folder in ("images/more", "masks/more"):
        (tmp_path / folder).mkdir(parents=True)
    image = np.zeros((20, 30, 3), np.uint8) + np.arange(30, dtype=np.uint8)[:, None]
    mask = (np.arange(30) < 12).astype(np.uint8) * 255 * np.ones((20, 1), np.uint8)
    for name in ("a", "b", "more/c"):
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "a.bmp")
    Image.fromarray(mask // 255).save(tmp_path / "masks" / "more/c.png")
    yield tmp_path
    DATA_REPORT.clear()
    for name in (NAME, IMAGES):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def entry(root, **more):
    return {
        "NAME": NAME,
        "IMAGE_ROOT": str(root / "images"),
        "MASK_ROOT": str(root / "masks"),
        **more,
    }


def config(*train, tasks=("foreground",)):
    cfg = get_multitask_cfg()
    cfg.DATASETS.TRAIN = train or (NAME,)
    cfg.MODEL.TASKS = list(tasks)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


def test_images_and_their_masks(root):
    assert register_datasets([entry(root)]) == [NAME]
    register_datasets([entry(root)])  # again is no error
    a, b, c = DatasetCatalog.get(NAME)
    assert a["foreground_file_name"] == str(root / "masks/a.bmp")
    assert c["foreground_file_name"] == str(root / "masks/more/c.png")
    assert "foreground_file_name" not in b
    assert DATA_REPORT.counts == {NO_MASK: 1}
    with pytest.raises(ValueError, match="already registered"):
        register_mask_folder(NAME, root / "images", root / "masks", mask_threshold=128)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"MASK_ROOTS": "x"}, "did you mean MASK_ROOT"),
        ({"MASK_VALUES": 3}, "MASK_VALUES: found 3, expected a mapping"),
        ({"MASK_VALUES": {"FOREGROUND": 1}}, f"'{NAME}': MASK_VALUES.*BACKGROUND"),
        ({"IMAGE_RANGE": [3, 1]}, "IMAGE_RANGE"),
        ({"MASK_ROOT": "", "MASK_THRESHOLD": 9}, "MASK_THRESHOLD without MASK_ROOT"),
    ],
)
def test_bad_entries(root, more, message):
    with pytest.raises(ValueError, match=message):
        register_datasets([entry(root, **more)])


def test_folders_that_do_not_fit(root):
    register_mask_folder(NAME, root / "images", root / "nowhere")
    with pytest.raises(ValueError, match="found no folder .*nowhere, expected a folder of masks"):
        DatasetCatalog.get(NAME)
    (root / "empty").mkdir()
    register_mask_folder(IMAGES, root / "images", root / "empty")
    with pytest.raises(ValueError, match="no mask for any of 3 images.*such as .*a.png"):
        DatasetCatalog.get(IMAGES)


def test_the_mask_moves_with_the_image(root):
    register_datasets([entry(root)])
    mapper = MultitaskDatasetMapper(
        True,
        augmentations=[T.CropTransform(5, 3, 20, 10), T.HFlipTransform(20)],
        labels=[ForegroundLabel()],
    )
    for record in (DatasetCatalog.get(NAME)[index] for index in (0, 2)):
        result = mapper(record)
        assert result["foreground"].dtype == torch.int64
        assert result["foreground"].shape == result["image"].shape[1:]
        # Where the image says that its column was left of 12.
        expected = (result["image"][0] < 12).long()
        assert torch.equal(result["foreground"], expected) and expected.any()
    assert "foreground" not in mapper(DatasetCatalog.get(NAME)[1])


def test_unlabelled_images_are_used_for_reconstruction_only(root):
    register_datasets([entry(root), {"NAME": IMAGES, "IMAGE_ROOT": str(root / "images")}])
    assert len(get_training_dicts(config(NAME, IMAGES))) == 2
    assert DATA_REPORT.counts[NO_LABEL] == 3  # b and two more times the same folder, by name
    joint = config(NAME, IMAGES, tasks=("foreground", "reconstruction"))
    assert len(get_training_dicts(joint)) == 6
    joint.DATASETS.TRAIN_REPEAT_FACTOR = [[NAME, 3]]
    assert len(get_training_dicts(joint)) == 12
    joint.MODEL.TASKS = ["reconstruction"]
    assert len(get_training_dicts(joint)) == 12
    with pytest.raises(ValueError, match="needs foreground masks, found none"):
        get_training_dicts(config(IMAGES))


@pytest.mark.parametrize("found", [["other", 2], [NAME, 0], [NAME, 1.5], [NAME], "x"])
def test_bad_repeat_factors(found):
    with pytest.raises(ValueError, match="TRAIN_REPEAT_FACTOR: found .*whole number from 1"):
        repeat_factors([found], [NAME])


def test_bad_masks_cost_their_images_only(root, caplog):
    Image.fromarray(np.full((20, 30), 100, np.uint8)).save(root / "masks/a.bmp")
    Image.fromarray(np.zeros((20, 31), np.uint8)).save(root / "masks/b.png")
    register_datasets([entry(root)])
    loader = iter(build_train_loader(config()))
    batches = [next(loader) for _ in range(3)]
    names = {x["image_id"] for batch in batches for x in batch}
    assert names == {"more/c.png"}
    assert DATA_REPORT.counts == {BAD_IMAGE: 2}
    assert "a.bmp: found the values [100]" in caplog.text
    assert "b.png: found a mask of 31x20, expected 30x20" in caplog.text


def test_a_folder_of_bad_masks_is_an_error(root):
    for name in ("a.bmp", "more/c.png"):
        Image.fromarray(np.full((20, 30), 100, np.uint8)).save(root / "masks" / name)
    register_datasets([entry(root)])
    with pytest.raises(ValueError, match="(?s)none of its maps can be used.*.*MASK_THRESHOLD"):
        get_training_dicts(config())


def test_unreadable_images(root):
    (root / "images/a.png").write_bytes(b"no image")
    register_datasets([entry(root)])
    cfg = config()
    assert len(get_training_dicts(cfg)) == 2
    batch = next(iter(build_train_loader(cfg)))
    assert {x["image_id"] for x in batch} == {"more/c.png"}
    with pytest.raises(ValueError, match="a.png: cannot be read"):
        list(build_test_loader(cfg, NAME))
