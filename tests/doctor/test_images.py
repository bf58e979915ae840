"""Planted faults of image files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from d2_multitask.config import get_multitask_cfg
from doctor_support import check_planted, found, set_config


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    cfg = set_config(tmp_path)
    folder = tmp_path / "train" / "images"
    (folder / "3.png").unlink()
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:90])
    (folder / "5.png").write_text("no picture")
    Image.new("RGB", (20, 30)).save(folder / "6.png")
    finding = check_planted(cfg, "images/unreadable", "warning")
    assert finding.count == 4 and "3.png: there is no such file" in finding.examples[0]


def test_a_broken_test_image_is_an_error(tmp_path: Path) -> None:
    cfg = set_config(tmp_path)
    Image.new("RGB", (20, 30)).save(tmp_path / "test" / "images" / "6.png")
    finding = check_planted(cfg, "images/unreadable", "error")
    assert finding.examples[0].endswith("found 20x30, expected 64x96 (width x height)")


def test_an_image_that_is_turned_as_exif_says(tmp_path: Path) -> None:
    cfg = set_config(tmp_path)
    file = tmp_path / "train" / "images" / "6.png"
    image = Image.open(file).transpose(Image.Transpose.ROTATE_90)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(file, exif=exif)
    assert found(cfg) == []


def copy_image(source: Path, target: Path, how: str) -> None:
    image = Image.open(source)
    if how == "smaller":
        image.resize((32, 48)).resize(image.size).save(target)
    elif how == "grey":
        image.convert("L").save(target)
    else:
        shutil.copy(source, target)


@pytest.mark.parametrize(
    ("how", "severity"), [("bytes", "error"), ("smaller", "warning"), ("grey", "warning")]
)
def test_an_image_in_training_and_test(tmp_path: Path, how: str, severity: str) -> None:
    cfg = set_config(tmp_path)
    copy_image(tmp_path / "train/images/9.png", tmp_path / "test/images/2.png", how)
    finding = check_planted(cfg, "images/leak", severity)
    assert finding.where == "planted_train and planted_test" and finding.count == 1
    assert "train/images/9.png and " in finding.examples[0]


def test_the_same_file_in_training_and_test(tmp_path: Path) -> None:
    cfg = set_config(tmp_path)
    folder = tmp_path / "test" / "images"
    (folder / "2.png").unlink()
    (folder / "2.png").symlink_to(tmp_path / "train" / "images" / "9.png")
    check_planted(cfg, "images/leak", "error")


def test_copies_in_one_set(tmp_path: Path) -> None:
    cfg = set_config(tmp_path)
    for target in ("2.png", "3.png"):
        copy_image(tmp_path / "train/images/9.png", tmp_path / "train/images" / target, "bytes")
    finding = check_planted(cfg, "images/copies", "warning")
    assert finding.count == 2  # the first stays


def test_folders_of_images(tmp_path: Path) -> None:
    cfg = set_config(tmp_path)
    cfg.MODEL.TASKS = ["foreground"]
    cfg.DATASETS.REGISTER = [
        {
            "NAME": f"planted_{name}",
            "IMAGE_ROOT": str(tmp_path / name / "images"),
            "MASK_ROOT": str(tmp_path / name / "maps"),
        }
        for name in ("train", "test")
    ]
    assert found(cfg) == []
    copy_image(tmp_path / "train/images/9.png", tmp_path / "test/images/2.png", "bytes")
    finding = check_planted(cfg, "images/leak", "error")
    assert finding.mend.startswith("mv ")


def test_images_without_labels_are_looked_at_too(tmp_path: Path) -> None:
    cfg = set_config(tmp_path)
    cfg.MODEL.TASKS = get_multitask_cfg().MODEL.TASKS.__class__(["reconstruction"])
    (tmp_path / "train" / "images" / "3.png").unlink()
    check_planted(cfg, "images/unreadable", "warning")
