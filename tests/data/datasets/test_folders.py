from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_multitask.data.datasets.folders import register_image_folder
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.loader import get_training_dicts
from d2_multitask.data.mapper import BAD_IMAGE, MultitaskDatasetMapper
from d2_multitask.data.problems import DATA_REPORT

NAME = "test_image_folder"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "folder"
    (root / "more").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "more/c.webp"):
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(root / name)
    (root / "notes.txt").write_text("no image")
    yield root
    DATA_REPORT.clear()
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def test_images_by_name_without_labels(folder):
    register_image_folder(NAME, folder)
    register_image_folder(NAME, folder)  # again is no error
    dicts = DatasetCatalog.get(NAME)
    assert [d["image_id"] for d in dicts] == ["a.JPG", "b.png", "more/c.webp"]
    assert dicts[2] == {"file_name": str(folder / "more/c.webp"), "image_id": "more/c.webp"}
    with pytest.raises(ValueError, match="already registered"):
        register_image_folder(NAME, folder, (0, 1))


def test_range_from_the_config(folder):
    entry = {"NAME": NAME, "IMAGE_ROOT": str(folder), "IMAGE_RANGE": [1, 3]}
    assert register_datasets([entry]) == [NAME]
    assert [d["image_id"] for d in DatasetCatalog.get(NAME)] == ["b.png", "more/c.webp"]


@pytest.mark.parametrize("image_range", [(2, 2), (-1, 2), (0,), (0, 1.5)])
def test_bad_range(image_range, folder):
    with pytest.raises(ValueError, match="IMAGE_RANGE: found"):
        register_image_folder(NAME, folder, image_range)


def test_range_beyond_the_folder(folder):
    register_image_folder(NAME, folder, (0, 4))
    with pytest.raises(ValueError, match=r"found \[0, 4\], expected at most 3"):
        DatasetCatalog.get(NAME)


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_no_images(name, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    register_image_folder(NAME, tmp_path / name)
    with pytest.raises(ValueError, match="found no folder|found 1 files and no image"):
        DatasetCatalog.get(NAME)


def mae_cfg(names):
    from d2_multitask.config import load_config

    cfg = load_config("quick/mae_pretrain.yaml")
    cfg.DATASETS.TRAIN = names
    return cfg


def test_every_image_is_used_and_no_label_read(folder, coco, write_coco, tmp_path):
    register_image_folder(NAME, folder)
    labelled = "test_image_folder_labelled"
    json_file = str(write_coco(coco))
    entry = {"NAME": labelled, "JSON": json_file, "IMAGE_ROOT": str(tmp_path / "images")}
    register_datasets([entry])
    try:
        dicts = get_training_dicts(mae_cfg((NAME, labelled)))
    finally:
        DatasetCatalog.remove(labelled)
        MetadataCatalog.remove(labelled)
    assert len(dicts) == 3 + len(coco["images"])
    known = {"file_name", "image_id", "height", "width", "dataset_name"}
    assert all(set(d) <= known for d in dicts)


def test_unreadable_image_is_counted_and_all_of_them_an_error(folder):
    (folder / "b.png").write_bytes(b"no png")
    register_image_folder(NAME, folder)
    cfg = mae_cfg((NAME,))
    mapper = MultitaskDatasetMapper(cfg, True)
    mapped = [mapper(d) for d in get_training_dicts(cfg)]
    assert [m is None for m in mapped] == [False, True, False]
    assert mapped[0]["image"].shape == (3, 96, 96)
    assert DATA_REPORT.counts == {BAD_IMAGE: 1}
    for name in ("a.JPG", "more/c.webp"):
        (folder / name).write_bytes(b"broken")
    with pytest.raises(ValueError, match="none of its 3 images can be used"):
        get_training_dicts(cfg)
