"""Tiny-ImageNet's layout, with two classes and a few images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_multitask.config import load_config
from d2_multitask.data.datasets.tiny_imagenet import TinyImageNet
from d2_multitask.data.loader import build_test_loader, build_train_loader

CODES = ["n02124075", "n01443537"]  # not in alphabetical order, as in the published file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three training images of a class, two of the other, and three for validation."""
    (tmp_path / "wnids.txt").write_text("\n".join(CODES))
    (tmp_path / "words.txt").write_text(
        "n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn00001740\tentity\n"
    )
    for code, number in zip(CODES, (3, 2), strict=True):
        for index in range(number):
            draw(tmp_path / "train" / code / "images" / f"{code}_{index}.JPEG", index)
        (tmp_path / "train" / code / f"{code}_boxes.txt").write_text("")
    rows = []
    for index, code in enumerate([CODES[1], CODES[0], CODES[1]]):
        draw(tmp_path / "val" / "images" / f"val_{index}.JPEG", 50 * index)
        rows.append(f"val_{index}.JPEG\t{code}\t0\t0\t63\t63\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(rows))
    return tmp_path


def draw(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64, 3), value, np.uint8)).save(path, "JPEG")


def test_images_and_their_classes(root):
    train = TinyImageNet("tiny_test_train", str(root), "train")()
    assert [record["image_labels"] for record in train] == [[0]] * 3 + [[1]] * 2
    assert train[3]["file_name"] == str(root / "train/n01443537/images/n01443537_0.JPEG")
    val = TinyImageNet("tiny_test_val", str(root), "val")()
    assert [(r["image_id"], r["image_labels"]) for r in val] == [
        ("val_0", [1]),
        ("val_1", [0]),
        ("val_2", [1]),
    ]
    assert MetadataCatalog.get("tiny_test_val").stuff_classes == ["Egyptian cat", "goldfish"]


def test_a_missing_file_and_an_unknown_class_are_said(root):
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99999999\t0\t0\t1\t1\n")
    with pytest.raises(ValueError, match=r"'tiny_test'.*n99999999.*as it is published"):
        TinyImageNet("tiny_test", str(root), "val")()
    (root / "words.txt").unlink()
    with pytest.raises(ValueError, match=r"'tiny_test'.*words\.txt"):
        TinyImageNet("tiny_test", str(root), "train")()


def test_the_documented_config_reads_it(root, monkeypatch):
    """Both splits, as a batch of the mapper: one class of each image is known."""
    cfg = load_config("quick/tiny_imagenet_scratch.yaml")
    cfg.MODEL.CLASSIFICATION_HEAD.NUM_CLASSES = 2
    cfg.SOLVER.IMS_PER_BATCH = 5
    for split in ("train", "val"):
        name = f"tiny_imagenet_{split}"
        dataset = TinyImageNet(name, str(root), split)
        monkeypatch.setitem(DatasetCatalog.data, name, dataset)
    batch = next(iter(build_train_loader(cfg)))
    assert {tuple(x["image"].shape) for x in batch} == {(3, 64, 64)}
    assert sorted(x["image_labels"].tolist() for x in batch) == [[0, 1]] * 2 + [[1, 0]] * 3
    images = [x["image"] for (x,) in build_test_loader(cfg, "tiny_imagenet_val")]
    assert [int(image.float().mean()) // 50 for image in images] == [0, 1, 2]
